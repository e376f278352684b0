"""Sweeps as a user runs them: real processes and launchers, and what each job leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_stand_in
import torch
import yaml
from conftest import ROOT, SMALL
from runs import forked
from test_train import inspected

from captioning.runs.run_folder import RunFolder
from captioning.sweeps.report import read_sweep

RESUMABLE = 75
WITNESS = ("+callbacks.witness._target_=witness.Witness", "+callbacks.witness.dirpath=${output_dir}")


STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def _no_sweep_outlives_its_test() -> Iterator[None]:
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait()


class Sweep:
    """A sweep in a folder of its own, ``sweep``, that can be started again.

    Args:
        folder: where to run it.
        overrides: of the command line.
        environment: further variables.
    """

    def __init__(self, folder: Path, *overrides: str, **environment: str) -> None:
        self.folder, self.overrides = folder, overrides
        paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "SLURM"))}
        self.environment = {**kept, "NETRC": str(folder / "netrc"), "PYTHONPATH": os.pathsep.join(paths), **environment}
        self.path = folder / "sweep"
        self.log = folder / "said.txt"

    def command(self, *overrides: str) -> list[str]:
        return [str(ROOT / "train.py"), "-m", *SMALL, *self.overrides, "hydra.sweep.dir=sweep", *overrides]

    def start(self, *overrides: str) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.command(*overrides)], cwd=self.folder, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )  # fmt: skip
        STARTED.append(self.process)
        return self.process

    def run(self, *overrides: str) -> int:
        ended = forked(self.command(*overrides), self.folder, self.environment)
        self.log.write_text(ended.stdout + ended.stderr)
        return int(ended.returncode)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def statuses(self) -> dict[str, str]:
        """What ``captioning sweep-report`` says became of each job."""
        return {job.name: job.status for job in read_sweep(self.path).jobs}

    def process_of(self, job: int) -> int:
        """The first process of a running job."""
        listed = subprocess.run(["ps", "-eww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
        ours = [line.split()[0] for line in listed.splitlines() if f'hydra.run.dir="{self.path / str(job)}"' in line]
        return min(map(int, ours))

    def seen(self, job: int) -> list[dict]:
        """What each process of a job had, as its witness wrote it."""
        return [json.loads(path.read_text()) for path in sorted((self.path / str(job)).glob("rank*.json"))]

    def config(self, job: int) -> dict:
        return yaml.safe_load((self.path / str(job) / ".hydra" / "config.yaml").read_text())

    def metrics(self, job: int) -> dict:
        return json.loads((self.path / str(job) / "metrics.json").read_text())

    def wait_for_training(self, *jobs: int) -> None:
        """Until each of these jobs has been validated once, and trains on."""

        def are_validated() -> bool:
            assert self.process.poll() is None, self.said
            return all((self.path / str(job) / "gallery.jsonl").exists() for job in jobs)

        until(are_validated, seconds=240)


def until(holds: Callable[[], object], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def processes_of(folder: Path) -> list[str]:
    """The command lines of living processes that name a folder."""
    listed = subprocess.run(
        ["ps", "-e", "-ww", "-o", "stat=", "-o", "args="], capture_output=True, text=True, check=True
    ).stdout
    lines = (line.strip() for line in listed.splitlines())
    return [line for line in lines if str(folder) in line and not line.startswith("Z")]


@pytest.fixture(scope="module")
def grid(images, tmp_path_factory) -> tuple[Sweep, int]:
    """A grid of three jobs of two processes, the second of which can't succeed."""
    swept = ["trainer.devices=2", "logger=wandb", *WITNESS, "model.lr=0.001,-1.0,0.002"]
    sweep = Sweep(tmp_path_factory.mktemp("grid"), f"data.path={images}", *swept)
    return sweep, sweep.run()


def test_a_grid_of_two_process_jobs_leaves_one_folder_for_each_job_and_no_other(grid):
    sweep, _ = grid
    assert {path.name for path in sweep.folder.iterdir()} - {"netrc"} == {"sweep", "said.txt"}
    assert {path.name for path in sweep.path.iterdir() if path.is_dir()} == {"0", "1", "2"}


def test_the_value_of_each_job_is_in_its_config_and_in_all_its_processes(grid):
    sweep, _ = grid
    for job, lr in ((0, 0.001), (2, 0.002)):
        assert sweep.config(job)["model"]["lr"] == lr
        assert [(seen["lr"], seen["processes"]) for seen in sweep.seen(job)] == [(lr, 2), (lr, 2)]


def test_both_processes_of_a_job_end_with_the_same_weights_and_jobs_with_others(grid):
    sweep, _ = grid
    weights = {job: {seen["weights"] for seen in sweep.seen(job)} for job in (0, 2)}
    assert len(weights[0]) == len(weights[2]) == 1
    assert weights[0] != weights[2]


def test_a_failing_job_stops_no_other_and_the_exit_status_tells(grid):
    sweep, status = grid
    assert sweep.statuses() == {"0": "finished", "1": "failed", "2": "finished"}
    assert status == 1


def test_the_last_lines_say_which_job_failed_with_what_and_why(grid):
    sweep, _ = grid
    *_, failed, best, page, count = sweep.said.splitlines()
    why = "model.lr must be above 0, got -1.0"
    assert failed == f"error: job 1 (model.lr=-1.0) failed: {why}; its folder is sweep/1"
    assert best.startswith("best: job ")
    assert page == "all jobs side by side: sweep/sweep.html"
    assert count == "error: 1 of 3 jobs failed, in sweep"
    assert "Traceback" not in sweep.said


def test_each_job_is_one_run_of_wandb_in_the_sweeps_group(grid):
    sweep, _ = grid
    for job, lr in ((0, "0.001"), (2, "0.002")):
        assert len(list((sweep.path / str(job)).glob("wandb/offline-run-*"))) == 1
        shown = inspected(sweep.path / str(job))
        assert shown.split('"display_name":"')[1].split('"')[0].endswith(f"lr={lr}")
        assert '"run_group":"sweep"' in shown


def test_a_sweep_has_a_report_of_its_jobs(grid):
    sweep, _ = grid
    assert "0.002" in (sweep.path / "sweep.html").read_text()


def test_a_sweep_ends_with_its_best_job_and_score(grid):
    sweep, _ = grid
    best = min((0, 2), key=lambda job: sweep.metrics(job)["val/wer"])
    lr = sweep.config(best)["model"]["lr"]
    assert f"best: job {best} (model.lr={lr}) with val/wer {sweep.metrics(best)['val/wer']:.4f}\n" in sweep.said


@pytest.fixture(scope="module")
def grid_again(grid) -> tuple[Sweep, dict, int]:
    """The same command again, and what the jobs' processes left before."""
    sweep, _ = grid
    before = {job: sweep.seen(job) for job in (0, 2)}
    return sweep, before, sweep.run()


@pytest.mark.slow
def test_finished_jobs_of_a_sweep_that_is_run_again_are_not_trained_again(grid_again):
    sweep, before, _ = grid_again
    assert before == {job: sweep.seen(job) for job in (0, 2)}
    assert "job 0: finished already" in sweep.said


@pytest.mark.slow
def test_failed_jobs_of_a_sweep_that_is_run_again_are_tried_again(grid_again):
    sweep, _, status = grid_again
    assert (sweep.path / "1" / "job.log").read_text().count("$ ") == 2
    assert status == 1


@pytest.mark.slow
def test_a_job_with_other_values_is_refused_and_its_folder_left_as_it_is(grid_again):
    sweep, before, _ = grid_again
    assert sweep.run("model.lr=0.001,-1.0,0.003") == 1
    assert "2: was trained with model.lr=0.002 and not model.lr=0.003; give the same values" in sweep.said
    assert sweep.seen(2) == before[2]


# ------------------------------------------------------------ stopped and resumed


@pytest.mark.slow
def test_a_stopped_sweep_starts_no_other_job_says_so_and_goes_on_where_it_was(images, tmp_path):
    sweep = Sweep(tmp_path, f"data.path={images}", "trainer.max_epochs=40", *WITNESS, "model.lr=0.001,0.002")
    process = sweep.start()
    sweep.wait_for_training(0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == RESUMABLE
    assert sweep.statuses() == {"0": "unfinished"}
    last = sweep.said.splitlines()[-1]
    assert last == "stopped: 0 of 2 jobs are finished; the same command with hydra.sweep.dir=sweep resumes the sweep"

    assert sweep.run() == 0
    assert sweep.statuses() == {"0": "finished", "1": "finished"}
    assert "resuming after step" in sweep.said
    assert [sweep.seen(job)[0]["step"] for job in (0, 1)] == [240, 240]


@pytest.mark.slow
def test_no_job_goes_on_training_when_its_sweep_is_killed(images, tmp_path):
    sweep = Sweep(tmp_path, f"data.path={images}", "trainer.max_epochs=1000", "trainer.devices=2", "model.lr=0.001")
    process = sweep.start()
    sweep.wait_for_training(0)
    assert processes_of(sweep.path)
    process.kill()
    process.wait()
    until(lambda: not processes_of(sweep.path), seconds=60)
    assert (sweep.path / "0" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
def test_a_job_that_is_killed_is_told_of_and_the_next_one_begins(images, tmp_path):
    sweep = Sweep(tmp_path, f"data.path={images}", "trainer.max_epochs=1000,1")
    process = sweep.start()
    sweep.wait_for_training(0)
    assert sweep.statuses() == {"0": "running"}
    os.kill(sweep.process_of(0), signal.SIGKILL)
    assert process.wait(timeout=240) == 1
    assert sweep.statuses() == {"0": "failed", "1": "finished"}
    assert "job 0 (trainer.max_epochs=1000) failed: killed by SIGKILL" in sweep.said


# ------------------------------------------------------------ launchers


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPUs that the test names aren't there")
def test_joblib_runs_jobs_beside_each_other_with_gpus_of_their_own_and_stops_and_goes_on(images, tmp_path):
    on_gpus = ["trainer.accelerator=auto", "trainer.devices=2", "trainer.max_epochs=30", *WITNESS]
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "model.lr=0.001,0.002,-1.0"]
    sweep = Sweep(tmp_path, f"data.path={images}", *on_gpus, *joblib, CUDA_VISIBLE_DEVICES="4,5,6,7")
    process = sweep.start()
    sweep.wait_for_training(0, 1)  # at once
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == RESUMABLE
    assert sweep.said.count(": interrupted\n") == 2
    assert not processes_of(sweep.path)

    assert sweep.run() == 1
    assert sweep.statuses() == {"0": "finished", "1": "finished", "2": "failed"}
    gpus = []
    for job in (0, 1):
        assert "resuming after step" in (sweep.path / str(job) / "job.log").read_text()
        seen = sweep.seen(job)
        assert len({(one["weights"], one["gpus"]) for one in seen}) == 1
        assert len(seen) == 2
        gpus += seen[0]["gpus"].split(",")
    assert len(gpus) == 4
    assert set(gpus) <= {"4", "5", "6", "7"}
    assert "error: model.lr must be above 0, got -1.0" in (sweep.path / "2" / "job.log").read_text()


@pytest.fixture
def slurm(tmp_path) -> Iterator[dict[str, str]]:
    """Variables with which the commands of a stand-in for SLURM are found."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    yield slurm_stand_in.install(folder)
    for path in folder.glob("*.step"):
        slurm_stand_in.end(int(path.read_text()))


@pytest.mark.slow
def test_slurm_trains_a_job_on_two_devices_and_tells_of_one_that_failed_and_one_that_it_killed(images, tmp_path, slurm):
    through = ["hydra/launcher=slurm", "trainer.devices=2", *WITNESS, "model.lr=0.001,-1.0,0.002"]
    sweep = Sweep(tmp_path, f"data.path={images}", *through, "trainer.max_epochs=3", **slurm)
    process = sweep.start()
    sweep.wait_for_training(2)
    os.kill(int((tmp_path / "slurm" / "100_2.step").read_text()), signal.SIGKILL)
    assert process.wait(timeout=300) == 1
    assert sweep.statuses()["0"] == "finished"
    assert [(seen["lr"], seen["processes"]) for seen in sweep.seen(0)] == [(0.001, 2), (0.001, 2)]
    assert "job 1 (model.lr=-1.0) failed: model.lr must be above 0, got -1.0" in sweep.said
    assert "job 2 (model.lr=0.002) failed: SLURM: state FAILED" in sweep.said


@pytest.mark.slow
def test_a_job_whose_time_at_slurm_is_over_is_queued_again_and_goes_on(images, tmp_path, slurm):
    one = ["hydra/launcher=slurm", "trainer.max_epochs=40", *WITNESS, "model.lr=0.001"]
    sweep = Sweep(tmp_path, f"data.path={images}", *one, **slurm)
    process = sweep.start()
    sweep.wait_for_training(0)
    os.kill(int((tmp_path / "slurm" / "100.step").read_text()), signal.SIGUSR2)
    assert process.wait(timeout=300) == 0
    assert "resuming after step" in (sweep.path / "0" / "job.log").read_text()
    assert sweep.seen(0)[0]["step"] == 240


# ------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("overrides", "environment", "line"),
    [
        (
            ["model.lr=0.001,0.002"],
            {"TORCHELASTIC_RUN_ID": "1", "RANK": "0"},
            "error: a sweep is started once, and not by torchrun",
        ),
        (
            ["hydra/sweeper=optuna", "model.lr=0.001"],
            {},
            "error: hydra/sweeper=optuna: no setting varies; give one a range, as in",
        ),
        (["hydra/sweeper=optuna", "monitor=choice(val/wer,val/cider)"], {}, "error: monitor: what is best can't vary"),
        (
            ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=0", "model.lr=0.1,0.2"],
            {},
            "error: hydra.sweeper.n_trials must be at least 1, got 0",
        ),
        (
            ["hydra/sweeper=optuna", "model.lr=tag(log,interval(0,1))"],
            {},
            "error: model.lr=tag(log,interval(0,1)): ",
        ),
        (["hydra/launcher=slrum", "model.lr=0.1,0.2"], {}, "error: hydra/launcher=slrum: no such choice; did you mean"),
    ],
)
def test_a_mistake_of_a_sweep_is_answered_in_one_line(images, tmp_path, overrides, environment, line):
    sweep = Sweep(tmp_path, f"data.path={images}", *overrides, **environment)
    assert sweep.run() == 1
    (said,) = sweep.said.splitlines()
    assert said.startswith(line)


def test_two_sweeps_in_one_folder_are_refused(images, tmp_path):
    sweep = Sweep(tmp_path, f"data.path={images}", "model.lr=0.001,0.002")
    with RunFolder(sweep.path).lock():
        assert sweep.run() == 1
    assert "is at work in this folder" in sweep.said


def test_a_folder_that_holds_a_run_with_unknown_settings_is_refused(images, tmp_path):
    (tmp_path / "sweep" / "0" / "checkpoints").mkdir(parents=True)
    sweep = Sweep(tmp_path, f"data.path={images}", "model.lr=0.001")
    assert sweep.run() == 1
    assert "0: holds a run with unknown settings; choose another hydra.sweep.dir" in sweep.said
