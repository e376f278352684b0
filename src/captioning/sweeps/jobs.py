"""Sweeps: each job is the same command with its own overrides, in a process and a run folder of its own.

The run folder is all the state there is: ``metrics.json`` of a finished job, and the values in
``.hydra/overrides.yaml``.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from captioning.config.compose import CONF, literal
from captioning.config.messages import ENVIRONMENT_VARIABLE, TRACEBACK_WANTED
from captioning.data.cache import available_cores
from captioning.errors import UserError
from captioning.runs.run_folder import RunFolder
from captioning.sweeps.gpus import GpuPool, gpus_per_job, visible_gpus
from captioning.sweeps.report import FAILED, FINISHED, LOG, key_of, log_lines, read_sweep, value_text
from captioning.training.distributed.environment import SWEEP, under_srun, under_torchrun
from captioning.training.signals import INTERRUPTED as RESUMABLE
from captioning.training.signals import SIGNALS

INTERRUPTED, NOT_STARTED = "interrupted", "not started"
# Overrides that say how a job runs and not what it computes: they may change when a sweep is resumed.
RUNTIME_KEYS = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "data.num_workers", "logger", "resume")
OUTPUT_TIMEOUT_S = 10.0  # seconds for the output of processes that outlive their job


@dataclass
class Job:
    """A run of a sweep: what trains it, and how that ended."""

    number: int
    overrides: list[str]
    folder: Path
    command: list[str]
    environment: dict[str, str]  # variables beside those of this process
    monitor: str
    accelerator: str  # these two as in ``trainer``
    devices: object
    status: str = NOT_STARTED  # or FINISHED, FAILED, INTERRUPTED
    error: str = ""
    stop_signal: int | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def return_value(self) -> float | None:
        """The monitored number, by the name that Hydra's sweepers read; None unless the job finished."""
        return (RunFolder(self.folder).metrics or {}).get(self.monitor) if self.status == FINISHED else None

    def conflict(self) -> str:
        """Why the job can't train in its folder: there is a run with other values. Empty if it can."""
        trained_with = RunFolder(self.folder).overrides
        if trained_with is None:
            if any((self.folder / name).exists() for name in ("metrics.json", "checkpoints")):
                return f"{self.folder}: holds a run with unknown settings; choose another hydra.sweep.dir"
            return ""
        before, now = (
            {text for text in texts if key_of(text) not in RUNTIME_KEYS} for texts in (trained_with, self.overrides)
        )
        if before == now:
            return ""
        was, wanted = (" ".join(sorted(texts)) or "nothing" for texts in (before - now, now - before))
        return (
            f"{self.folder}: was trained with {was} and not {wanted}; give the same values in the same order to resume "
            "the sweep, or choose another hydra.sweep.dir"
        )

    def run(self, *, in_terminal: bool = False) -> None:
        """Train in a process of its own, and set ``status`` and ``error``; ``in_terminal`` shows the output here.

        Errors are in ``job.log`` in any case.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("ab", buffering=0) as log:
            log.write(f"$ {' '.join(shlex.join(self.command).splitlines())}\n".encode())
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment, SWEEP: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=None if in_terminal else log,
                stderr=subprocess.PIPE if in_terminal else log,
                start_new_session=True,  # a Ctrl-C reaches it once, through this process
            )

            def copy() -> None:
                for line in self.process.stderr if self.process and self.process.stderr else ():
                    log.write(line)
                    sys.stderr.buffer.write(line)
                    sys.stderr.flush()

            copying = threading.Thread(target=copy, daemon=True)
            copying.start()
            if self.stop_signal:  # it came while the process was started
                self.process.send_signal(self.stop_signal)
            code = self.process.wait()
            if code not in (0, RESUMABLE):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.process.pid, signal.SIGKILL)  # its other processes
            copying.join(OUTPUT_TIMEOUT_S)
            if code == 0 and (self.folder / "metrics.json").exists():
                self.status = FINISHED
            elif code == RESUMABLE or (self.stop_signal and code == -self.stop_signal):
                self.status = INTERRUPTED
            else:
                self.status = FAILED
                lines = log_lines(self.folder)
                said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
                if code < 0:
                    hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
                    self.error = f"killed by {signal.Signals(-code).name}{hint}"
                else:
                    self.error = "it left no metrics.json" if code == 0 else said[-1] if said else f"exit status {code}"
                if lines[-1:] != [f"error: {self.error}"]:
                    log.write(f"error: {self.error}\n".encode())

    def stop(self, number: int) -> None:
        """Send its process a signal, now or as soon as it starts."""
        self.stop_signal = number
        if self.process:
            self.process.send_signal(number)


class Sweep:
    """The jobs that this process starts with ``run_jobs``, and how they end.

    Raises:
        UserError: torchrun or srun started this process, or another process runs a sweep in the same folder.
    """

    current: ClassVar["Sweep | None"] = None

    def __init__(self, config: Any, config_loader: Any, run_jobs: Callable[["Sweep", list[Job]], None]) -> None:
        if under_torchrun() or under_srun():
            raise UserError(
                "a sweep is started once, and not by torchrun or by srun with several tasks; each of its jobs starts "
                "the processes that trainer.devices=N asks for"
            )
        self.config, self._config_loader, self._run_jobs = config, config_loader, run_jobs
        self.folder = Path(config.hydra.runtime.cwd, config.hydra.sweep.dir)
        self.jobs: dict[int, Job] = {}
        self.stop_signal: int | None = None
        self._lock = RunFolder(self.folder).lock()
        self._lock.__enter__()  # until this process ends
        for number in SIGNALS:
            signal.signal(number, self.stop)
        Sweep.current = self

    def launch(self, job_overrides: Sequence[Sequence[str]], numbers: Sequence[int]) -> list[Job]:
        """Run a batch of jobs, each with its overrides and its number."""
        jobs = [self._job(number, list(given)) for number, given in zip(numbers, job_overrides, strict=True)]
        self.jobs |= {job.number: job for job in jobs}
        due = []
        for job in jobs:
            if error := job.conflict():
                job.status, job.error = FAILED, error
                self.report(job)
            elif (job.folder / "metrics.json").exists():
                job.status = FINISHED
                say(f"job {job.number}: finished already")
            else:
                due.append(job)
        if due and not self.stop_signal:
            self._run_jobs(self, due)
        return jobs

    def _job(self, number: int, overrides: list[str]) -> Job:
        config = self._config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        if config.hub.push:
            raise UserError(
                "hub.push=true: every job of a sweep would upload to the same name; leave it out, and upload the best "
                "job with `captioning push JOB_FOLDER USER/NAME`"
            )
        hydra, folder = self.config.hydra, self.folder / config.hydra.sweep.subdir
        command = [sys.executable, str(Path(sys.argv[0]).resolve())]
        for source in hydra.runtime.config_sources:
            if source.provider == "command-line":
                command += ["--config-dir", source.path]
            elif source.provider == "main" and source.schema == "file" and Path(source.path) != CONF:
                command += ["--config-path", source.path]
        if hydra.job.config_name != "config":
            command += ["--config-name", hydra.job.config_name]
        return Job(
            number=number,
            overrides=overrides,
            folder=folder,
            command=[*command, *overrides, f"hydra.run.dir={literal(str(folder))}", "hydra.mode=RUN", "resume=auto"],
            environment={
                ENVIRONMENT_VARIABLE: "1" if TRACEBACK_WANTED else "0",  # not what run_main set for this process
                "WANDB_RUN_GROUP": os.environ.get("WANDB_RUN_GROUP", hydra.sweep.dir),
            },
            monitor=config.monitor,
            accelerator=config.trainer.accelerator,
            devices=config.trainer.devices,
        )

    def stop(self, number: int, _frame: object = None) -> None:
        """Send all running jobs a signal, and start no other."""
        self.stop_signal = number
        for job in self.jobs.values():
            job.stop(number)

    def report(self, job: Job) -> None:
        """Print how a job ended."""
        if job.status != NOT_STARTED:
            say(f"job {job.number}: {job.status}{': ' if job.error else ''}{job.error}")

    def values_of(self, job: Job) -> str:
        """The overrides of a job that not all jobs have."""
        common = set.intersection(*(set(other.overrides) for other in self.jobs.values()))
        return " ".join(text for text in job.overrides if text not in common or len(self.jobs) == 1)

    def finish(self) -> int:
        """Write ``sweep.html``, and print what became of the jobs. Returns the exit status of the sweep."""
        folder, jobs = _relative(self.folder), list(self.jobs.values())
        finished = [job for job in jobs if job.status == FINISHED]
        failed = [job for job in jobs if job.status == FAILED]
        for job in failed:
            values = self.values_of(job)
            where = f"its folder is {_relative(job.folder)}"
            say(f"error: job {job.number}{f' ({values})' if values else ''} failed: {job.error}; {where}")
        try:
            from captioning.sweeps.page import write_sweep_page  # draws, which takes seconds to import

            sweep = read_sweep(self.folder)
            if best := sweep.best:
                values = " ".join(f"{key}={value_text(value)}" for key, value in best.settings.items())
                say(f"best: job {best.name}{f' ({values})' if values else ''} with {sweep.monitor} {best.score:.4f}")
            say(f"all jobs side by side: {_relative(write_sweep_page(sweep))}")
        except Exception as error:  # a defect here must not cost the sweep its exit status
            line = " ".join(str(error).split()) or type(error).__name__
            say(f"no sweep.html: {line}; try again with `captioning sweep-report {folder}`")
        if self.stop_signal or len(finished) + len(failed) < len(jobs):
            say(
                f"stopped: {len(finished)} of {len(jobs)} jobs are finished; the same command with "
                f"hydra.sweep.dir={folder} resumes the sweep"
            )
            return RESUMABLE
        if failed:
            say(f"error: {len(failed)} of {len(jobs)} jobs failed, in {folder}")
            return 1
        say(f"all {len(jobs)} jobs are finished: {folder}" if jobs else f"nothing is left to train: {folder}")
        return 0


class SweepCallback(Callback):
    """Prints a sweep's results at its end, and exits with its status."""

    def on_multirun_end(self, config: DictConfig, **_: object) -> None:
        if Sweep.current and (status := Sweep.current.finish()):
            sys.exit(status)


def run_locally(sweep: Sweep, jobs: list[Job], n_jobs: int) -> None:
    """Run jobs on this machine, ``n_jobs`` side by side; -1 is one for each core, -2 one less, and so on."""
    cores = available_cores()
    n_jobs = n_jobs if n_jobs > 0 else max(cores + 1 + n_jobs, 1)
    gpus = visible_gpus() if n_jobs > 1 and any(job.accelerator != "cpu" for job in jobs) else []
    pool = GpuPool(gpus)
    wanted = {job.number: gpus_per_job(job.accelerator, job.devices, gpus=len(gpus), n_jobs=n_jobs) for job in jobs}
    if n_jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        for job in jobs:
            processes = wanted[job.number] or (int(str(job.devices)) if str(job.devices).isdecimal() else 1)
            job.environment["OMP_NUM_THREADS"] = str(max(cores // (n_jobs * processes), 1))

    def run(job: Job) -> None:
        with pool.take(wanted[job.number]) as own:
            if sweep.stop_signal:
                return
            if own:
                job.environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
            say(f"job {job.number}: {sweep.values_of(job)}")
            job.run(in_terminal=n_jobs == 1)
        if job.status == INTERRUPTED and not sweep.stop_signal:
            sweep.stop(signal.SIGTERM)  # what stopped one job is meant for all
        sweep.report(job)

    with ThreadPoolExecutor(n_jobs) as threads_of_jobs:
        list(threads_of_jobs.map(run, jobs))


def say(line: str) -> None:
    """Print a line for the user of a sweep."""
    print(line, file=sys.stderr, flush=True)


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
