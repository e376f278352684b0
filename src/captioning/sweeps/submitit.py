"""Jobs of a sweep as jobs of SLURM, through submitit."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import submitit
from submitit.helpers import DelayedSubmission

from captioning.errors import UserError
from captioning.sweeps.jobs import INTERRUPTED, NOT_STARTED, Job, Sweep
from captioning.sweeps.report import FAILED
from captioning.training.signals import SIGNALS

POLL = 1.0  # seconds between looks at the jobs
OF_ALL_CLUSTERS = (
    "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name", "stderr_to_stdout"
)  # fmt: skip


class SlurmJob:
    """What a job of SLURM runs; submitit pickles it."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self) -> tuple[str, str]:
        for number in SIGNALS:
            if number != signal.SIGUSR2:  # submitit's, which calls checkpoint()
                signal.signal(number, lambda number, _frame: self.job.stop(number))
        self.job.run()
        return self.job.status, self.job.error

    def checkpoint(self) -> DelayedSubmission:
        """Save and stop, for SLURM has warned that the job's time is over; submitit then has it queued again."""
        again = SlurmJob(replace(self.job, process=None))
        if self.job.process:
            self.job.process.send_signal(signal.SIGUSR2)
            # Popen.wait() is interrupted by this very signal, and can't be called twice.
            os.waitid(os.P_PID, self.job.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(again)


def run_on_slurm(sweep: Sweep, jobs: list[Job], settings: Mapping[str, Any]) -> None:
    """Submit jobs as one array with the ``settings`` of ``hydra.launcher``, and wait for all of them."""
    if not shutil.which("sbatch"):
        raise UserError("hydra/launcher=slurm: no sbatch here; run it where SLURM is, or with hydra/launcher=joblib")
    given = dict(settings)
    executor = submitit.AutoExecutor(
        folder=given.pop("submitit_folder"), cluster="slurm", slurm_max_num_timeout=given.pop("max_num_timeout")
    )
    executor.update_parameters(**{k if k in OF_ALL_CLUSTERS else f"slurm_{k}": value for k, value in given.items()})
    submitted = executor.submit_array([SlurmJob(job) for job in jobs])
    is_stopped = False
    while not all(task.done() for task in submitted):
        if sweep.stop_signal and not is_stopped:
            is_stopped, ids = True, [str(task.job_id) for task in submitted]
            subprocess.run(["scancel", "--state=PENDING", *ids], check=False)
            subprocess.run(["scancel", "--signal=TERM", *ids], check=False)
        time.sleep(POLL)
    for job, task in zip(jobs, submitted, strict=True):
        if task.exception() is None:
            job.status, job.error = task.result()
        elif not sweep.stop_signal:
            job.status, job.error = FAILED, f"SLURM: state {task.state}; its log is {task.paths.stderr}"
        if job.status in (INTERRUPTED, NOT_STARTED) and not sweep.stop_signal:
            sweep.stop(signal.SIGTERM)
        sweep.report(job)
