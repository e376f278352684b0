"""What a sweep keeps in its folder, and how a process works for another."""

import os
import platform
import signal
import subprocess
import sys
import time

import pytest

from captioning.errors import UserError
from captioning.sweeps.folder import FINISHED, RUNNING, JobRecord, SweepFolder, is_running, read_record
from captioning.sweeps.process import REASON_FILE, Signals, run_process


@pytest.fixture
def sweep(tmp_path) -> SweepFolder:
    sweep = SweepFolder(tmp_path)
    sweep.begin(command=["true"], environment={}, kill_jobs_on_exit=True)
    return sweep


def test_a_job_is_told_to_stop_by_the_signal_that_the_sweep_had(sweep):
    about = sweep.read()
    assert sweep.stop_asked(about) is None
    sweep.ask_to_stop(signal.SIGUSR1)
    assert SweepFolder(sweep.path).stop_asked(about) == signal.SIGUSR1


def test_a_sweep_that_begins_anew_stops_for_nothing_that_stopped_the_one_before(sweep):
    sweep.ask_to_stop(signal.SIGTERM)
    sweep.tell(JobRecord(0, [], str(sweep.path)))
    sweep.end()
    again = SweepFolder(sweep.path)
    again.begin(command=["true"], environment={}, kill_jobs_on_exit=True)
    assert again.stop_asked(again.read()) is None
    assert again.told() == {}


def test_a_job_of_a_sweep_that_is_gone_or_was_begun_anew_is_told_to_stop(sweep):
    about = sweep.read()
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert sweep.stop_asked({**about, "pid": gone.pid}) == signal.SIGTERM
    assert sweep.stop_asked({**about, "id": "another"}) == signal.SIGTERM
    assert sweep.stop_asked({**about, "id": "another", "kill_jobs_on_exit": False}) is None


def test_a_folder_takes_one_sweep_at_a_time(sweep):
    with pytest.raises(UserError, match=r"^hydra\.sweep\.dir=.*: another process runs a sweep there"):
        SweepFolder(sweep.path).begin(command=["true"], environment={}, kill_jobs_on_exit=True)


def test_a_record_can_be_read_again_and_adds_up_its_starts(sweep, tmp_path):
    record = JobRecord(3, ["a=1"], str(tmp_path), seconds=100.0)
    sweep.tell(record)
    assert read_record(tmp_path).status == RUNNING
    sweep.tell(record.end(FINISHED, exit_status=0))
    assert read_record(tmp_path) == record
    assert sweep.told() == {3: record}
    assert 100.0 <= record.seconds < 160.0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"job": 1}', '{"job": 0, "of": "another version"}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path, text):
    (tmp_path / "job.json").write_text(text)
    assert read_record(tmp_path) is None


def test_whether_a_process_of_another_machine_runs_is_not_known_here():
    assert is_running("elsewhere", 1)
    assert not is_running("elsewhere", 1, elsewhere=False)
    assert is_running(platform.node(), os.getpid())


# ------------------------------------------------------------ a process that works for another


def run_python(code: str, tmp_path, *, signals=None, stop_asked=lambda: None, started=lambda pid: None) -> int:
    environment = {**os.environ, REASON_FILE: str(tmp_path / "reason")}
    return run_process(
        [sys.executable, "-c", code], environment=environment, folder=tmp_path, output=None,
        signals=signals or Signals(), stop_asked=stop_asked, started=started,
    )  # fmt: skip


def test_the_exit_status_is_the_processs(tmp_path):
    assert run_python("raise SystemExit(75)", tmp_path) == 75


CATCHES = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))
open("ready", "w").close()
time.sleep(60)
"""


def test_a_signal_to_this_process_is_sent_on(tmp_path):
    signals = Signals().hold()
    try:
        code = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'ready')!r}): time.sleep(0.1)\n"
        sender = subprocess.Popen([sys.executable, "-c", f"{code}os.kill({os.getpid()}, {int(signal.SIGUSR1)})"])
        assert run_python(CATCHES, tmp_path, signals=signals) == 7
    finally:
        signals.release()
        sender.wait()


def test_a_process_is_stopped_once_when_it_is_asked_to(tmp_path):
    asked = lambda: signal.SIGUSR1 if (tmp_path / "ready").exists() else None  # noqa: E731
    assert run_python(CATCHES, tmp_path, stop_asked=asked) == 7


def test_a_failing_process_notes_why(tmp_path):
    code = "from captioning.sweeps.process import supervised\nwith supervised(): raise KeyError('lost')"
    assert run_python(code, tmp_path) == 1
    assert (tmp_path / "reason").read_text() == "KeyError: 'lost'"


def test_what_a_killed_process_leaves_behind_is_ended(tmp_path):
    code = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("child", "w").write(str(child.pid))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_python(code, tmp_path) == -signal.SIGKILL
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while _is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_alive(pid: int) -> bool:
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(listed.stdout.strip()) and not listed.stdout.startswith("Z")
