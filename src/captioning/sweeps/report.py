"""What a folder of runs holds: its jobs, the settings that vary between them, and which one is best.

Everything is read from the files of the run folders, so that grids, Optuna sweeps and any other runs will do.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captioning.errors import UserError
from captioning.metrics import HIGHER_IS_BETTER
from captioning.runs.report.numbers import finite
from captioning.runs.run_folder import flat, read_mapping
from captioning.sweeps.folder import FINISHED, RUNNING
from captioning.sweeps.importance import METHOD, Importance, as_number, importances
from captioning.sweeps.job_folder import MISSING, STATUSES, JobFolder, is_ignored, is_run, job_folders

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A run of the sweep.

    Attributes:
        name: its folder, as seen from the sweep's.
        folder: where it is.
        status: one of :data:`captioning.sweeps.job_folder.STATUSES`.
        why: what is known of a job that didn't finish, or has no number.
        settings: the values of the settings that vary; one that isn't known is missing.
        score: the monitored number, of validation; None where there is none, or it isn't finite.
        step: the optimizer step of the checkpoint that has it.
        metrics: all numbers, as in its ``metrics.json``.
        seconds: how long it took.
        overrides: what was given on its command line.
    """

    name: str
    folder: Path
    status: str
    why: str
    settings: dict[str, Any]
    score: float | None
    step: int | None
    metrics: dict[str, Any]
    seconds: float | None
    overrides: list[str]

    @property
    def report(self) -> Path | None:
        """Its own report, where it has one."""
        path = self.folder / "report.html"
        return path if path.is_file() else None


@dataclass(frozen=True)
class Sweep:
    """Jobs, the best first and those without a number last.

    Attributes:
        folder: the sweep's.
        monitor: the number that jobs are ranked by, such as ``val/wer``.
        higher_is_better: which way of it is better.
        jobs: all of them.
        settings: the dotted keys of what varies.
        importance: how much each setting matters, the most important first.
        notes: what has to be said about all this.
        command: what was asked for, where the sweep says.
        sweeper: what chose the values, where the sweep says.
    """

    folder: Path
    monitor: str
    higher_is_better: bool
    jobs: list[Job]
    settings: list[str]
    importance: list[Importance]
    notes: list[str]
    command: list[str] | None
    sweeper: str | None

    @property
    def ranked(self) -> list[Job]:
        """The jobs with a number, the best first."""
        return [job for job in self.jobs if job.score is not None]

    @property
    def best(self) -> Job | None:
        """The best job; None where no job has a number."""
        return next(iter(self.ranked), None)

    @property
    def equals(self) -> list[Job]:
        """The other jobs with the best job's number."""
        return [job for job in self.ranked[1:] if job.score == self.ranked[0].score]

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs there are of each status that occurs."""
        counts = Counter(job.status for job in self.jobs)
        return {status: counts[status] for status in STATUSES if counts[status]}


def write_sweep_report(folder: Path) -> Path | None:
    """Write ``sweep.html`` at the end of a sweep; whatever is wrong is said in a line, and never fails the sweep."""
    try:
        from captioning.sweeps.page import write_sweep_page

        path = write_sweep_page(read_sweep(folder))
    except Exception as error:  # a defect here must not cost the numbers of hours of training
        line = " ".join(str(error).split()) or type(error).__name__
        _log.warning(f"no sweep.html: {line}; try again with `captioning sweep-report {folder}`")
        return None
    _log.info(f"all jobs beside each other: {path}")
    return path


def read_sweep(folder: Path) -> Sweep:
    """Read all runs below a folder.

    Raises:
        UserError: there is no such folder, it is a run itself, or it holds none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of a sweep, such as multirun/DATE/TIME")
    if is_run(folder):
        raise UserError(f"{folder}: is one run; look at it with `captioning report {folder}`, or give the folder above")
    folders = job_folders(folder)
    if not folders:
        raise UserError(f"{folder}: holds no run; give the folder of a sweep, such as multirun/DATE/TIME")
    monitor, notes = _monitor(folders)
    settings = _varying(folders)
    higher = bool(HIGHER_IS_BETTER.get(monitor.partition("/")[2]))
    jobs = _best_first([_job(job, monitor, settings) for job in folders], higher)
    command, sweeper = _origin(folder)
    return Sweep(
        folder=folder,
        monitor=monitor,
        higher_is_better=higher,
        jobs=jobs,
        settings=settings,
        importance=_importance(jobs, settings),
        notes=notes,
        command=command,
        sweeper=sweeper,
    )


def as_json(sweep: Sweep) -> dict[str, Any]:
    """All of it as plain values."""
    best = sweep.best
    jobs = [asdict(job) | {"report": job.report} for job in sweep.jobs]
    return {
        "folder": str(sweep.folder),
        "monitor": sweep.monitor,
        "direction": "max" if sweep.higher_is_better else "min",
        "best": best.name if best else None,
        "counts": sweep.counts,
        "settings": sweep.settings,
        "importance": {"method": METHOD, "of": [asdict(one) for one in sweep.importance]},
        "jobs": _json_ready(jobs),
        "notes": sweep.notes,
    }


def _json_ready(content: Any) -> Any:
    """The same with text for what JSON hasn't: a path, a date in YAML, a number that isn't finite."""
    return json.loads(json.dumps(content, default=str), parse_constant=str)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """As few last parts of each dotted key as it takes to tell them apart."""
    names = {}
    for key in keys:
        parts = re.split(r"[./]", key)
        others = [re.split(r"[./]", other) for other in keys if other != key]
        count = next((n for n in range(1, len(parts)) if all(o[-n:] != parts[-n:] for o in others)), len(parts))
        names[key] = ".".join(parts[-count:])
    return names


def value_text(value: Any) -> str:
    """A setting's value as the command line has it, in few digits."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def _origin(folder: Path) -> tuple[list[str] | None, str | None]:
    """The sweep's command and its sweeper, as Hydra's multirun.yaml has them."""
    try:
        hydra = (read_mapping(folder / "multirun.yaml") or {})["hydra"]
        given = [*hydra["overrides"]["hydra"], *hydra["overrides"]["task"]]
        how = [text for text in given if not text.startswith(("hydra.mode=", "hydra.sweep.dir="))]
        # With its folder, or it would be another sweep and not what is missing of this one.
        command = ["python", "train.py", "-m", *how, f"hydra.sweep.dir={folder}"]
        return command, str(hydra["sweeper"]["_target_"])
    except (UserError, OSError, KeyError, TypeError):
        return None, None


def _monitor(folders: Sequence[JobFolder]) -> tuple[str, list[str]]:
    """The number that most jobs are monitored by, and what to say where others have another."""
    counts = Counter(str(job.config["monitor"]) for job in folders if job.config and "monitor" in job.config)
    monitor = counts.most_common(1)[0][0] if counts else "val/wer"
    others = sorted(set(counts) - {monitor})
    note = f"Not all jobs have the same monitor ({', '.join(others)}); they are ranked by {monitor}, which most have."
    return monitor, [note] if others else []


def _varying(folders: Sequence[JobFolder]) -> list[str]:
    """The dotted keys of what the jobs were given different values of, in the order of the command line.

    What differs without having been given follows from a choice (``model=…``), and is only counted where there is none,
    as between runs of different versions of the code.
    """
    given = list(dict.fromkeys(key for job in folders for key in job.given))
    varying = [key for key in given if len({_text(job.value(key)) for job in folders if _knows(job)}) > 1]
    flats = [flat(job.config) for job in folders if job.config]
    every = dict.fromkeys(key for one in flats for key in one)
    differing = [key for key in every if len({one.get(key) for one in flats}) > 1 and not is_ignored(key)]
    return varying + [key for key in differing if not any(_follows(key, cause) for cause in varying)]


def _follows(key: str, cause: str) -> bool:
    """Whether a setting is, or is chosen by, what was given."""
    return cause == "experiment" or key == cause or key.startswith(f"{re.split('[/@]', cause)[0]}.")


def _knows(job: JobFolder) -> bool:
    return job.config is not None or bool(job.given)


def _text(value: Any) -> str:
    """What values are compared by: 1 is 1.0, and true is neither."""
    number = as_number(value)
    return "" if value is MISSING else json.dumps(value if number is None else number, default=str)


def _job(job: JobFolder, monitor: str, settings: Sequence[str]) -> Job:
    status, why = job.status(monitor)
    metrics = job.metrics or {}
    values = {key: job.value(key) for key in settings}
    score = finite(metrics.get(monitor)) if status == FINISHED else None
    if status == FINISHED and score is None:
        reason = metrics.get("notes", {}).get(monitor, "it was never measured")
        why = f"no {monitor}: {reason}"
    return Job(
        name=job.name,
        folder=job.folder,
        status=status,
        why=why,
        settings={key: value for key, value in values.items() if value is not MISSING},
        score=score,
        step=metrics.get("tested_step"),
        metrics=metrics,
        seconds=job.seconds(is_on=status == RUNNING),
        overrides=job.overrides,
    )


def _best_first(jobs: list[Job], higher: bool) -> list[Job]:
    def place(job: Job) -> tuple[bool, float, int]:
        return job.score is None, (job.score or 0.0) * (-1 if higher else 1), STATUSES.index(job.status)

    return sorted(jobs, key=place)


def _importance(jobs: Sequence[Job], settings: Sequence[str]) -> list[Importance]:
    ranked = [job for job in jobs if job.score is not None]
    if not ranked:
        return []
    values = {key: [job.settings.get(key) for job in ranked] for key in settings}
    values = {key: column for key, column in values.items() if len(set(map(_text, column))) > 1}
    return importances(values, [job.score for job in ranked if job.score is not None])
