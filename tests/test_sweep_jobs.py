"""The engine of a sweep, with jobs that are small programs and train nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from captioning.errors import UserError
from captioning.sweeps.jobs import Job, Sweep, run_locally
from captioning.sweeps.report import log_lines
from captioning.training.signals import SIGNALS

FINISH = "open('metrics.json', 'w').write('{\"val/wer\": 0.5}')"
WAIT = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
open("ready", "w").close()
time.sleep(60)
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    hydra = SimpleNamespace(runtime=SimpleNamespace(cwd=str(tmp_path)), sweep=SimpleNamespace(dir="sweep"))
    yield Sweep(SimpleNamespace(hydra=hydra), None, lambda sweep, jobs: run_locally(sweep, jobs, 1))
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def make_job(sweep: Sweep) -> Callable[..., Job]:
    """A job that runs a program in its folder."""

    def make(code: str, *overrides: str, accelerator: str = "cpu") -> Job:
        number = len(sweep.jobs)
        folder = sweep.folder / str(number)
        command = [sys.executable, "-c", f"import os; os.chdir({str(folder)!r})\n{code}", *overrides]
        job = Job(number, list(overrides), folder, command, {}, "val/wer", accelerator, 1)
        sweep.jobs[number] = job
        return job

    return make


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(listed.stdout.strip()) and not listed.stdout.startswith("Z")


def test_a_job_that_leaves_its_metrics_is_finished_with_its_score(make_job):
    job = make_job(FINISH)
    job.run()
    assert (job.status, job.error, job.return_value) == ("finished", "", 0.5)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import sys; sys.exit('error: model.lr must be above 0')", "model.lr must be above 0"),
        ("raise KeyError('lost')", "KeyError: 'lost'"),
        ("import sys; print('error: first', file=sys.stderr); sys.exit('error (process 1): too')", "first"),
        ("raise SystemExit(3)", "exit status 3"),
        ("", "it left no metrics.json"),
        ("import signal; os.kill(os.getpid(), signal.SIGTERM)", "killed by SIGTERM"),
    ],
)
def test_a_failed_job_says_why_and_leaves_that_in_its_log(make_job, code, error):
    job = make_job(code)
    job.run()
    assert (job.status, job.error, job.return_value) == ("failed", error, None)
    assert log_lines(job.folder)[-1] == f"error: {error}"


def test_errors_of_a_job_in_the_terminal_are_in_its_log_too(make_job, capfdbinary):
    job = make_job("import sys; sys.exit('error: no such folder')")
    job.run(in_terminal=True)
    assert job.error == "no such folder"
    assert capfdbinary.readouterr().err == b"error: no such folder\n"


def test_what_a_killed_job_leaves_behind_is_killed(make_job):
    job = make_job(
        "import signal, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('child', 'w').write(str(child.pid))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    job.run()
    assert job.error == "killed by SIGKILL, as the system does when memory runs out"
    until(lambda: not is_alive(int((job.folder / "child").read_text())))


def test_a_signal_to_the_sweep_reaches_its_running_jobs_and_no_other_starts(sweep, make_job):
    first, second = make_job(WAIT), make_job(FINISH)

    def interrupt() -> None:
        until(lambda: (first.folder / "ready").exists())
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    run_locally(sweep, [first, second], n_jobs=1)
    thread.join()
    assert [first.status, second.status] == ["interrupted", "not started"]
    assert sweep.finish() == 75


def test_what_interrupts_one_job_stops_those_beside_it(sweep, make_job):
    beside = WAIT.replace("SIGUSR1", "SIGTERM")
    jobs = [make_job(beside), make_job("import time; time.sleep(1); raise SystemExit(75)"), make_job(FINISH)]
    run_locally(sweep, jobs, n_jobs=2)
    assert [job.status for job in jobs] == ["interrupted", "interrupted", "not started"]


def test_a_failed_job_stops_no_other_and_the_exit_status_is_1(sweep, make_job, capsys):
    jobs = [make_job("raise SystemExit(3)", "seed=1", "data=x"), make_job(FINISH, "seed=2", "data=x")]
    run_locally(sweep, jobs, n_jobs=1)
    assert sweep.finish() == 1
    said = capsys.readouterr().err
    assert f"error: job 0 (seed=1) failed: exit status 3; its folder is {jobs[0].folder}\n" in said
    assert "best: job 1 (seed=2) with val/wer 0.5000\n" in said
    assert said.splitlines()[-1] == f"error: 1 of 2 jobs failed, in {sweep.folder}"


def test_jobs_side_by_side_have_gpus_of_their_own(sweep, make_job, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    both = "while len([n for n in ('0', '1') if os.path.exists(f'../{n}/seen')]) < 2: pass\n"
    code = f"open('seen', 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])\n{both}{FINISH}"
    jobs = [make_job(code, accelerator="auto") for _ in range(2)]
    run_locally(sweep, jobs, n_jobs=2)
    assert {(job.folder / "seen").read_text() for job in jobs} == {"4", "7"}


def test_a_job_stops_when_its_sweep_is_gone(tmp_path):
    run = (
        "from captioning.training.distributed.environment import stop_with_sweep; stop_with_sweep()\n"
        "import time; time.sleep(600)"
    )
    parent = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {run!r}], stderr=subprocess.PIPE,"
        " env={**os.environ, 'CAPTIONING_SWEEP_PID': str(os.getpid())})\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))"
    )
    subprocess.run([sys.executable, "-c", parent], check=True)
    until(lambda: not is_alive(int((tmp_path / "child").read_text())))


def test_a_folder_takes_one_sweep_at_a_time(sweep):
    with pytest.raises(UserError, match="is at work in this folder"):
        Sweep(sweep.config, None, sweep.launch)


@pytest.mark.parametrize(
    ("trained_with", "given", "conflict"),
    [
        ("[model.lr=0.1, trainer.devices=2]", ["model.lr=0.1", "trainer.devices=4"], ""),
        ("[model.lr=0.1]", ["model.lr=0.2"], "was trained with model.lr=0.1 and not model.lr=0.2"),
        ("[model.lr=0.1]", ["model.lr=0.1", "seed=1"], "was trained with nothing and not seed=1"),
        (None, ["model.lr=0.1"], "holds a run with unknown settings"),
    ],
)
def test_a_folder_that_holds_a_run_with_other_values_is_refused(make_job, trained_with, given, conflict):
    job = make_job(FINISH, *given)
    (job.folder / "checkpoints").mkdir(parents=True)
    if trained_with:
        (job.folder / ".hydra").mkdir()
        (job.folder / ".hydra/overrides.yaml").write_text(trained_with)
    assert conflict in job.conflict()
    assert bool(conflict) == bool(job.conflict())
