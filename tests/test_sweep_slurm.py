"""Jobs of a sweep through submitit and a stand-in for SLURM; they are small programs and train nothing."""

import os
import signal
import threading
from pathlib import Path

import pytest
import slurm_stand_in
from test_sweep_jobs import FINISH, make_job, sweep, until  # noqa: F401

pytest.importorskip("submitit")
from captioning.sweeps.submitit import run_on_slurm

RESUMED = f"""
import signal, sys, time
if os.path.exists("ready"):
    {FINISH}
    sys.exit()
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
open("ready", "w").close()
time.sleep(600)
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a stand-in for SLURM, whose commands are found."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, value in slurm_stand_in.install(folder).items():
        monkeypatch.setenv(name, value)
    return folder


def settings(tmp_path: Path) -> dict:
    return {"submitit_folder": str(tmp_path / "submitit"), "max_num_timeout": 3, "timeout_min": 60, "name": "sweep"}


def test_each_job_of_a_sweep_is_a_job_of_slurm_and_says_how_it_ended(sweep, make_job, slurm, tmp_path):  # noqa: F811
    killed = "import signal; os.kill(os.getppid(), signal.SIGKILL)"
    jobs = [make_job(FINISH), make_job("import sys; sys.exit('error: no such folder')"), make_job(killed)]
    run_on_slurm(sweep, jobs, settings(tmp_path))
    assert [job.status for job in jobs] == ["finished", "failed", "failed"]
    assert jobs[1].error == "no such folder"
    assert jobs[2].error.startswith("SLURM: state FAILED; its log is ")


def test_a_job_whose_time_is_over_is_queued_again(sweep, make_job, slurm, tmp_path):  # noqa: F811
    job = make_job(RESUMED)

    def warn() -> None:
        until(lambda: (job.folder / "ready").exists())
        os.kill(int((slurm / "100.step").read_text()), signal.SIGUSR2)

    thread = threading.Thread(target=warn)
    thread.start()
    run_on_slurm(sweep, [job], settings(tmp_path))
    thread.join()
    assert job.status == "finished"
    assert (job.folder / "job.log").read_text().count("$ ") == 2


def test_stopping_the_sweep_stops_its_jobs_at_slurm(sweep, make_job, slurm, tmp_path):  # noqa: F811
    job = make_job(RESUMED)

    def stop() -> None:
        until(lambda: (job.folder / "ready").exists())
        sweep.stop(signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    run_on_slurm(sweep, [job], settings(tmp_path))
    thread.join()
    assert job.status == "interrupted"
    assert sweep.finish() == 75
