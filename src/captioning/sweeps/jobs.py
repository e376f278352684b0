"""Sweeps: each job is a run of its own, in a process and a folder of its own, whoever launches it.

Lightning starts the further processes of a run by running the command line again. In a sweep that line is the whole
sweep, and a sweeper that samples would hand every process other values. So a job's values are settled here, and it is
trained by a process that was given them.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from captioning.config.compose import CONF, literal
from captioning.config.messages import ENVIRONMENT_VARIABLE, MISTAKES, TRACEBACK_WANTED, environment_of_a_job, explain
from captioning.data.cache import available_cores
from captioning.errors import UserError
from captioning.runs.run_folder import read_mapping
from captioning.sweeps import share
from captioning.sweeps.folder import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    NOT_STARTED,
    JobRecord,
    SweepFolder,
    is_running,
    read_record,
)
from captioning.sweeps.process import REASON_FILE, Signals, run_process
from captioning.training.distributed.environment import under_srun, under_torchrun
from captioning.training.signals import INTERRUPTED as RESUMABLE

JOBS_AT_ONCE = "CAPTIONING_JOBS_AT_ONCE"  # set by a launcher that knows
# What a launcher's workers set for themselves, and jobs shall have as the sweep has it.
INHERITED_ENV = (
    ENVIRONMENT_VARIABLE,
    *(f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "BLIS", "VECLIB", "NUMBA", "NUMEXPR")),
    "VECLIB_MAXIMUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)
# Overrides that say how a job runs and not what it computes: they may differ when a sweep is gone on with.
RUNTIME_KEYS = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "data.num_workers", "logger")
ORPHAN_TIMEOUT_S = 60.0  # seconds for the process of a sweep that was killed, which is saving what it has


class SweepCallback(Callback):
    """Hydra tells it when a sweep begins and ends; what is in between is in :func:`train_job`."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with _answered():
            if under_torchrun() or under_srun():
                raise UserError(
                    "a sweep is started once, and not by torchrun or by srun with several tasks; each of its jobs "
                    "starts the processes that trainer.devices=N asks for"
                )
            HydraConfig.instance().set_config(config)
            sweep = SweepFolder(sweep_dir(config.hydra))
            environment = environment_of_a_job()
            sweep.begin(
                command=_command(config),
                environment={name: environment[name] for name in INHERITED_ENV if name in environment},
                kill_jobs_on_exit=not _is_slurm(config.hydra),
            )
            _sweeps.append((sweep, Signals(sweep.ask_to_stop).hold()))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        sweep, signals = _sweeps.pop()
        with _answered():
            status = _summarize(sweep)
            sweep.end()
            signals.release()
        if status:
            sys.exit(status)


@contextmanager
def _answered() -> Iterator[None]:
    """Answer a mistake where Hydra would make a warning of it, as it does of any exception of a callback."""
    try:
        yield
    except MISTAKES as error:
        if TRACEBACK_WANTED:
            traceback.print_exc()
        _say(f"error: {explain(error)}")
        sys.exit(1)


_sweeps: list[tuple[SweepFolder, Signals]] = []  # that this process has begun and not ended


def sweep_dir(hydra: Any) -> Path:
    """The sweep's folder; Hydra has it as it was given."""
    return Path(hydra.runtime.cwd, hydra.sweep.dir)


def is_stopped(hydra: Any) -> bool:
    """Whether no further job is to be started: the sweep was told to stop, or one of its jobs was."""
    sweep = SweepFolder(sweep_dir(hydra))
    return sweep.stop_asked(sweep.read()) is not None


def status_of_job(hydra: Any, number: int) -> str | None:
    """How a job of this sweep ended; None where that isn't known."""
    record = SweepFolder(sweep_dir(hydra)).told().get(number)
    return record.status if record else None


# ------------------------------------------------------------ one job


def train_job(cfg: Any) -> dict[str, Any]:
    """Train a job of a sweep in a process of its own.

    A job that another start of the same sweep has finished isn't trained again; one that was interrupted or failed is
    gone on with. One that fails doesn't raise: the sweep goes on, and tells at its end.

    Returns:
        The final numbers; none where it failed, was interrupted or wasn't started.
    """
    hydra = HydraConfig.get()
    sweep = SweepFolder(sweep_dir(hydra))
    folder = Path(cfg.output_dir)
    record = JobRecord(int(hydra.job.num), list(map(str, hydra.overrides.task)), str(folder), pid=os.getpid())
    try:
        return _train_job(cfg, hydra, sweep, folder, record)
    except UserError as error:
        told = read_record(folder)
        is_ours = told is None or _identity_overrides(told.overrides) == _identity_overrides(record.overrides)
        _tell(sweep, record.end(FAILED, error=str(error)), in_its_folder=is_ours)
        return {}


def _train_job(cfg: Any, hydra: Any, sweep: SweepFolder, folder: Path, record: JobRecord) -> dict[str, Any]:
    about = sweep.read()
    earlier = _earlier(folder, record)
    if earlier and earlier.status == FINISHED and (metrics := _metrics(folder)):
        _write(sweep, earlier)
        _say(f"job {record.job}: finished already")
        return metrics
    if sweep.stop_asked(about) is not None:
        _tell(sweep, record.end(NOT_STARTED), in_its_folder=False)
        return {}
    if earlier:
        record.seconds = earlier.seconds
    with _signals() as signals, _environment(cfg, hydra, about, lambda: _must_stop(sweep, about, signals)) as variables:
        if _must_stop(sweep, about, signals):
            _tell(sweep, record.end(NOT_STARTED), in_its_folder=False)
            return {}
        status = _run(cfg, hydra, sweep, record, signals, about, variables)
        requeue = _requeue(signals) if status == RESUMABLE else None
        _end(sweep, record, folder, status, is_for_all=requeue is None)
        if requeue:
            requeue()
    _leave_with_the_sweep(sweep, about)
    return (_metrics(folder) or {}) if record.status == FINISHED else {}


def _must_stop(sweep: SweepFolder, about: Mapping[str, Any], signals: Signals) -> bool:
    return bool(signals.received) or sweep.stop_asked(about) is not None


def _run(
    cfg: Any,
    hydra: Any,
    sweep: SweepFolder,
    record: JobRecord,
    signals: Signals,
    about: Mapping[str, Any],
    variables: Mapping[str, str],
) -> int:
    folder = Path(record.folder)
    folder.mkdir(parents=True, exist_ok=True)
    _error_file(folder).unlink(missing_ok=True)

    def started(pid: int) -> None:
        record.pid = pid
        _write(sweep, record)

    command = [*about["command"], *record.overrides, f"hydra.run.dir={literal(str(folder))}"]
    command += ["hydra.mode=RUN", "resume=auto"]
    with _output(hydra, folder) as output:
        return run_process(
            command,
            environment={**variables, REASON_FILE: str(_error_file(folder))},
            folder=Path(hydra.runtime.cwd),
            output=output,
            signals=signals,
            stop_asked=lambda: sweep.stop_asked(about),
            started=started,
        )


def _error_file(folder: Path) -> Path:
    return folder / ".error"


def _end(sweep: SweepFolder, record: JobRecord, folder: Path, status: int, *, is_for_all: bool) -> None:
    """Tell how a job's process ended; what interrupted it is meant for all jobs, or for this one alone."""
    error = None
    with suppress(OSError):
        error = _error_file(folder).read_text()
        _error_file(folder).unlink()
    if status == RESUMABLE:
        record.end(INTERRUPTED, exit_status=status)
        if is_for_all:  # those that run beside it, and those that would come next
            sweep.ask_to_stop(signal.SIGTERM)
    elif status == 0 and _metrics(folder):
        record.end(FINISHED, exit_status=status)
    elif status == 0:
        record.end(FAILED, exit_status=status, error="it left no metrics.json")
    else:
        record.end(FAILED, exit_status=status, error=error or _meaning(status))
    _tell(sweep, record)


def _meaning(status: int) -> str:
    if status > 0:
        return f"exit status {status}"
    hint = ", as the system does where memory runs out" if status == -signal.SIGKILL else ""
    return f"killed by {signal.Signals(-status).name}{hint}"


def _earlier(folder: Path, record: JobRecord) -> JobRecord | None:
    """What is known of the same job from another start of this sweep.

    Raises:
        UserError: the folder holds another run, or this one still runs.
    """
    told = read_record(folder)
    if told is None:
        if (folder / "metrics.json").exists() or (folder / "checkpoints").exists():
            raise UserError(f"{folder}: holds a run that no sweep has left there; take another hydra.sweep.dir")
        return None
    before, now = _identity_overrides(told.overrides), _identity_overrides(record.overrides)
    if before != now:
        was, shall = sorted(before - now) or ["nothing"], sorted(now - before) or ["nothing"]
        raise UserError(
            f"{folder}: was trained with {' '.join(was)} and not {' '.join(shall)}; give the same values in the same "
            "order to go on with a sweep, or take another hydra.sweep.dir"
        )
    _wait_for(told)
    return told


def _identity_overrides(overrides: list[str]) -> set[str]:
    return {text for text in overrides if text.lstrip("+").partition("=")[0] not in RUNTIME_KEYS}


def _wait_for(told: JobRecord) -> None:
    """Wait for a process whose sweep was killed: it is told, too, and saves what it has."""
    deadline = time.monotonic() + ORPHAN_TIMEOUT_S
    while told.ended is None and is_running(told.host, told.pid, elsewhere=False):
        if time.monotonic() > deadline:
            raise UserError(f"{told.folder}: process {told.pid} still trains there; wait for its end, or end it")
        time.sleep(1)


def _metrics(folder: Path) -> dict[str, Any] | None:
    try:
        return read_mapping(folder / "metrics.json")
    except UserError:  # damaged
        return None


# ------------------------------------------------------------ what it runs with


@contextmanager
def _signals() -> Iterator[Signals]:
    """The sweep's own where this process has begun it; in a launcher's worker, held from the first job on."""
    if _sweeps:
        yield _sweeps[-1][1]
        return
    signals = Signals().hold()
    try:
        yield signals
    finally:
        if _is_submitit():  # whose own handlers are due between jobs; joblib's workers would die of what they're sent
            signals.release()


def _requeue(signals: Signals) -> Callable[[], Any] | None:
    """What has submitit ask SLURM to start this job again, where SLURM has said that its time is over; else None."""
    warning = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}", signal.SIGTERM)
    handler = signals.replaced.get(warning)
    if _is_submitit() and warning in signals.received and callable(handler):
        return lambda: handler(warning, None)
    return None


def _leave_with_the_sweep(sweep: SweepFolder, about: Mapping[str, Any]) -> None:
    """End a launcher's worker whose sweep was killed: joblib's would wait for work for five minutes more."""
    if about["kill_jobs_on_exit"] and not sweep.is_run_by(about):
        os._exit(RESUMABLE)


def _is_submitit() -> bool:
    return "SUBMITIT_EXECUTOR" in os.environ


def _is_slurm(hydra: Any) -> bool:
    return "slurm" in str(hydra.launcher.get("_target_")).lower() and "Local" not in str(hydra.launcher._target_)


@contextmanager
def _environment(cfg: Any, hydra: Any, about: Mapping[str, Any], stop_asked: Any) -> Iterator[dict[str, str]]:
    """The variables of a job's process; GPUs among them are its own until the end of the context."""
    variables = {name: value for name, value in os.environ.items() if name not in INHERITED_ENV or _is_slurm(hydra)}
    variables |= about["environment"]
    variables["WANDB_RUN_GROUP"] = os.environ.get("WANDB_RUN_GROUP", hydra.sweep.dir)
    at_once = _jobs_at_once(hydra)
    if at_once == 1:
        yield variables
        return
    trainer: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    gpus = share.visible_gpus(variables) if trainer["accelerator"] in share.ON_GPUS else []
    wanted = share.gpus_wanted(trainer, gpus=len(gpus), jobs_at_once=at_once)
    if "OMP_NUM_THREADS" not in variables:
        threads = share.threads_of_a_process(
            cores=available_cores(), jobs_at_once=at_once, processes=_processes(trainer, wanted)
        )
        variables["OMP_NUM_THREADS"] = str(threads)
    with share.own_gpus(gpus, wanted, stop_asked=stop_asked) as own:
        yield {**variables, "CUDA_VISIBLE_DEVICES": ",".join(own)} if wanted else variables


def _processes(trainer: Mapping[str, Any], gpus: int) -> int:
    devices = trainer["devices"]
    return gpus or (int(devices) if str(devices).isdecimal() else 1)


def _jobs_at_once(hydra: Any) -> int:
    """How many jobs share this machine."""
    if JOBS_AT_ONCE in os.environ:
        return int(os.environ[JOBS_AT_ONCE])
    if "joblib" in str(hydra.launcher.get("_target_")).lower():
        n_jobs = int(hydra.launcher.n_jobs)
        return n_jobs if n_jobs > 0 else max((os.cpu_count() or 1) + 1 + n_jobs, 1)
    return 1


@contextmanager
def _output(hydra: Any, folder: Path) -> Iterator[IO[bytes] | None]:
    """The terminal where jobs run in turn, else a log in the job's folder."""
    if "basic_launcher" in str(hydra.launcher.get("_target_")):
        yield None
        return
    with (folder / "job.log").open("ab") as file:
        yield file


def _command(config: Any) -> list[str]:
    """What starts one job, without its overrides: the program, and where it finds its configuration."""
    hydra = config.hydra
    command = [sys.executable, str(Path(sys.argv[0]).resolve())]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            command += ["--config-dir", source.path]
        elif source.provider == "main" and source.schema == "file" and Path(source.path) != CONF:
            command += ["--config-path", source.path]
    return command if hydra.job.config_name == "config" else [*command, "--config-name", hydra.job.config_name]


# ------------------------------------------------------------ what is said


def _write(sweep: SweepFolder, record: JobRecord, *, in_its_folder: bool = True) -> None:
    if int(os.environ.get("SLURM_PROCID") or 0) == 0:  # one tells for all tasks of a SLURM job
        sweep.tell(record, in_its_folder=in_its_folder)


def _tell(sweep: SweepFolder, record: JobRecord, *, in_its_folder: bool = True) -> None:
    _write(sweep, record, in_its_folder=in_its_folder)
    if record.status != NOT_STARTED:
        _say(f"job {record.job}: {record.status}{': ' if record.error else ''}{record.error or ''}")


def _summarize(sweep: SweepFolder) -> int:
    """Say what became of the jobs, and write the sweep's report. Returns the sweep's exit status."""
    records = list(sweep.told().values())
    given = [set(record.overrides) for record in records]
    common = set.intersection(*given) if given else set()
    by_status = {status: [r for r in records if r.status == status] for status in (FINISHED, FAILED, INTERRUPTED)}
    _write_report(sweep.path)
    for record in by_status[FAILED]:
        values = " ".join(text for text in record.overrides if text not in common)
        which = f"job {record.job} ({values})" if values else f"job {record.job}"
        _say(f"error: {which} failed: {record.error}; its folder is {_shown(Path(record.folder))}")
    left = len(records) - len(by_status[FINISHED]) - len(by_status[FAILED])
    is_stopped = bool(left) or sweep.stop_asked(sweep.read()) is not None
    if is_stopped:
        _say(
            f"stopped: {len(by_status[FINISHED])} of {len(records)} jobs are finished; the same command with "
            f"hydra.sweep.dir={_shown(sweep.path)} goes on"
        )
    elif by_status[FAILED]:
        _say(f"error: {len(by_status[FAILED])} of {len(records)} jobs failed, in {_shown(sweep.path)}")
    elif records:
        _say(f"all {len(records)} jobs are finished: {_shown(sweep.path)}")
    else:
        _say(f"nothing is left to train: {_shown(sweep.path)}")
    return RESUMABLE if is_stopped else 1 if by_status[FAILED] else 0


def _shown(path: Path) -> str:
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write_report(folder: Path) -> None:
    """By a program of its own, which needs no torch, and can't cost the sweep its exit status."""
    from captioning.sweeps.report import write_sweep_report

    write_sweep_report(folder)
