"""Jobs through submitit: each tells how it ended, whatever becomes of the others.

Hydra's plugin ends the whole sweep at the first job that SLURM killed, and leaves the others alone.
"""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import OmegaConf

from captioning.sweeps.folder import FAILED, INTERRUPTED, RUNNING, JobRecord, SweepFolder
from captioning.sweeps.jobs import JOBS_AT_ONCE, sweep_dir

_log = logging.getLogger(__name__)
POLL = 1.0  # seconds between looks at the jobs


def launch(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
    """Submit a batch of jobs as one array, and wait for all of them.

    Args:
        launcher: Hydra's, set up; each job calls it.
        job_overrides: of each job.
        initial_job_idx: the first one's number.
    """
    hydra = launcher.config.hydra
    sweep = SweepFolder(sweep_dir(hydra))
    numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
    for number, overrides in zip(numbers, job_overrides, strict=True):
        _log.info(f"#{number}: {' '.join(filter_overrides(overrides))}")
    if launcher._EXECUTOR == "local":
        os.environ[JOBS_AT_ONCE] = str(len(job_overrides))
    state = Singleton.get_state()
    arguments = [
        (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", state)
        for number, overrides in zip(numbers, job_overrides, strict=True)
    ]
    jobs = _executor(launcher).map_array(launcher, *zip(*arguments, strict=True))
    _wait(sweep, dict(zip(numbers, jobs, strict=True)))
    return [_returned(sweep, number, job, overrides)
            for number, job, overrides in zip(numbers, jobs, job_overrides, strict=True)]  # fmt: skip


def _executor(launcher: Any) -> submitit.AutoExecutor:
    """An executor with the settings of ``hydra.launcher``; those it shares with all kinds have no prefix."""
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    kind, settings = launcher._EXECUTOR, dict(launcher.params)
    folder, timeouts = settings.pop("submitit_folder"), settings.pop("max_num_timeout", None)
    limit = {} if timeouts is None else {f"{kind}_max_num_timeout": timeouts}
    executor = submitit.AutoExecutor(folder=folder, cluster=kind, **limit)
    shared = set(OmegaConf.structured(BaseQueueConf).keys())
    executor.update_parameters(**{k if k in shared else f"{kind}_{k}": value for k, value in settings.items()})
    return executor


def _wait(sweep: SweepFolder, jobs: dict[int, Any]) -> None:
    """Wait for all jobs; when the sweep is stopped, take those that haven't begun out of SLURM's queue."""
    about, is_stopped = sweep.read(), False
    while not all(job.done() for job in jobs.values()):
        if not is_stopped and sweep.stop_asked(about) is not None:
            is_stopped, told = True, sweep.told()
            for job in (job for number, job in jobs.items() if number not in told):
                job.cancel(check=False)
        time.sleep(POLL)


def _returned(sweep: SweepFolder, number: int, job: Any, overrides: Sequence[str]) -> JobReturn:
    """What a job returned; nothing where it was killed, which is then told for it."""
    try:
        returned: JobReturn = job.results()[0]
        return returned
    except (submitit.core.utils.UncompletedJobError, RuntimeError, OSError):
        nothing = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    record = sweep.told().get(number)
    if record is None and sweep.stop_asked(sweep.read()) is not None:
        return nothing  # it waited in the queue
    if record is None or record.status == RUNNING:
        record = record or JobRecord(number, list(overrides), str(sweep.path / str(number)))
        sweep.tell(
            record.end(FAILED, error=f"submitit: no result, state {job.state}; its log is {job.paths.stderr}"),
            in_its_folder=Path(record.folder).is_dir(),
        )
    elif record.status != INTERRUPTED:
        sweep.tell(record.end(FAILED, error=f"submitit: state {job.state}; its log is {job.paths.stderr}"))
    return nothing
