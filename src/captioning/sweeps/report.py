"""What a folder of runs holds: its jobs, the settings that vary between them, and which one is best."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from captioning.errors import UserError
from captioning.metrics.metric_info import HIGHER_IS_BETTER
from captioning.runs.report.numbers import finite
from captioning.runs.run_folder import RunFolder, read_mapping

FINISHED, RUNNING, UNFINISHED, FAILED = STATUSES = ("finished", "running", "unfinished", "failed")
LOG = "job.log"  # of a job: the command and its errors, or all of its output
LOG_TAIL = 20_000  # bytes at its end in which its error is
RUN_ARTIFACTS = (".hydra", "environment.json", "metrics.json", "checkpoints", LOG)  # one of them makes a run folder
IGNORED_KEYS = ("resume", "output_dir", "hydra")  # say where and how a job ran, and not what it was


@dataclass
class JobResult:
    """A run of the sweep, as its folder has it."""

    name: str  # its folder, relative to the sweep's
    folder: Path
    status: str = UNFINISHED
    note: str = ""  # why it failed, how far it came, or why it has no score
    settings: dict[str, Any] = field(default_factory=dict)  # of those that vary; an unknown value is missing
    score: float | None = None  # the monitored metric; None if there is none, or it isn't finite
    step: int | None = None  # of the checkpoint that has the score
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None  # from its start to its metrics
    overrides: list[str] = field(default_factory=list)

    def test_score(self, name: str) -> TestScore | None:
        """A test metric; None if there is none, or it isn't finite."""
        value, interval = finite(self.metrics.get(f"test/{name}")), self.metrics.get(f"test/{name}_ci95")
        return None if value is None else TestScore(value, (interval[0], interval[1]) if interval else None)


class TestScore(NamedTuple):
    """A test metric with its 95 % interval."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class SweepResults:
    """Jobs, best first and those without a score last."""

    folder: Path
    monitor: str
    higher_is_better: bool
    jobs: list[JobResult]
    settings: list[str]  # dotted keys of what varies
    importance: dict[str, float]  # from 0 to 1, of each setting of an Optuna search
    notes: list[str]
    command: list[str] | None  # resumes the sweep

    @property
    def ranked(self) -> list[JobResult]:
        return [job for job in self.jobs if job.score is not None]

    @property
    def best(self) -> JobResult | None:
        return next(iter(self.ranked), None)

    @property
    def counts(self) -> dict[str, int]:
        counts = Counter(job.status for job in self.jobs)
        return {status: counts[status] for status in STATUSES if counts[status]}


def read_sweep(folder: Path) -> SweepResults:
    """Read all runs below a folder.

    Raises:
        UserError: there is no such folder, it is a run itself, or it holds none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of a sweep, such as multirun/DATE/TIME")
    if _is_run(folder):
        raise UserError(f"{folder}: is one run; look at it with `captioning report {folder}`, or give the folder above")
    paths = []
    for parent, names, _ in os.walk(folder):  # not within a run, behind a link or in a hidden folder
        if _is_run(Path(parent)):
            names.clear()
            paths.append(Path(parent))
        names[:] = [name for name in names if not name.startswith(".")]
    if not paths:
        raise UserError(f"{folder}: holds no run; give the folder of a sweep, such as multirun/DATE/TIME")
    jobs, configs = [], []
    for path in sorted(paths, key=lambda path: re.sub(r"\d+", lambda number: number[0].zfill(9), str(path))):
        job, config = _read_job(path, path.relative_to(folder).as_posix())
        jobs.append(job)
        configs.append(config)

    monitors = Counter(str(config["monitor"]) for config in configs if "monitor" in config)
    monitor = monitors.most_common(1)[0][0] if monitors else "val/wer"
    notes = []
    if others := sorted(set(monitors) - {monitor}):
        notes = [f"Not all jobs have the same monitor ({', '.join(others)}); they are ranked by {monitor}."]

    keys = dict.fromkeys(key_of(text) for job in jobs for text in job.overrides)
    given = [{key_of(text): text.partition("=")[2] for text in job.overrides} for job in jobs]
    values = [
        {key: _value(key, texts.get(key), config) for key in keys} for texts, config in zip(given, configs, strict=True)
    ]
    known = [index for index, job in enumerate(jobs) if configs[index] or job.overrides]
    varying = []
    for key in keys:
        texts = {given[index].get(key) for index in known}
        of_key = (values[index][key] for index in known)  # of which 1 is 1.0, and true is neither
        distinct = {json.dumps(float(value) if type(value) is int else value, default=str) for value in of_key}
        if len(texts) > 1 and len(distinct) > 1:
            varying.append(key)
    for job, of_job in zip(jobs, values, strict=True):
        job.settings = {key: of_job[key] for key in varying if of_job[key] is not None}
        if job.status == FINISHED:
            job.score = finite(job.metrics.get(monitor))
            if job.score is None:
                job.note = f"no {monitor}: {job.metrics.get('notes', {}).get(monitor, 'it was never measured')}"
    higher = bool(HIGHER_IS_BETTER.get(monitor.partition("/")[2]))
    jobs.sort(
        key=lambda job: (job.score is None, (job.score or 0.0) * (-1 if higher else 1), STATUSES.index(job.status))
    )
    command, importance, note = _origin(folder)
    return SweepResults(
        folder=folder,
        monitor=monitor,
        higher_is_better=higher,
        jobs=jobs,
        settings=varying,
        importance=importance,
        notes=[*notes, *note],
        command=command,
    )


def as_json(sweep: SweepResults) -> dict[str, Any]:
    """All of it as plain values."""
    content = asdict(sweep) | {"best": sweep.best.name if sweep.best else None, "counts": sweep.counts}
    content["direction"] = "max" if content.pop("higher_is_better") else "min"
    # Text for what JSON lacks: a path, a date in YAML, a number that isn't finite.
    return dict(json.loads(json.dumps(content, default=str), parse_constant=str))


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """As few last parts of each dotted key as it takes to tell them apart."""
    names = {}
    for key in keys:
        parts = re.split(r"[./]", key)
        others = [re.split(r"[./]", other) for other in keys if other != key]
        count = next((n for n in range(1, len(parts)) if all(o[-n:] != parts[-n:] for o in others)), len(parts))
        names[key] = ".".join(parts[-count:])
    return names


def value_text(value: object) -> str:
    """A setting's value as the command line has it, in few digits."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def is_number(value: object) -> bool:
    """Whether a setting's value is a number, which a bool isn't."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def key_of(override: str) -> str:
    """The setting that an override of the command line sets."""
    return override.partition("=")[0].lstrip("+~")


def log_lines(folder: Path) -> list[str]:
    """The last lines of a job's log since its last start, without empty ones."""
    if not (folder / LOG).is_file():
        return []
    with (folder / LOG).open("rb") as log:
        log.seek(max(log.seek(0, os.SEEK_END) - LOG_TAIL, 0))
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    starts = [index for index, line in enumerate(lines) if line.startswith("$ ")]
    return lines[starts[-1] + 1 :] if starts else lines


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in RUN_ARTIFACTS)


def _read_job(path: Path, name: str) -> tuple[JobResult, dict[str, Any]]:
    """A job with its status, and its configuration."""
    job, run = JobResult(name, path), RunFolder(path)
    config: dict[str, Any] = {}
    try:
        overrides = run.overrides
        if overrides is None and (path / LOG).is_file():  # it failed before its training began
            with (path / LOG).open(encoding="utf-8", errors="replace") as log:
                words = shlex.split(log.readline())
            overrides = [word for word in words if re.match(r"[+~]*[a-z][\w./@]*=", word)]
        job.overrides = [
            text for text in overrides or [] if re.split(r"[./@]", key_of(text), maxsplit=1)[0] not in IGNORED_KEYS
        ]
        config = run.config or {}
        metrics = run.metrics
        curves = (run.curves if metrics is None else None) or {}
        started = (run.environment or {}).get("started")
    except (UserError, OSError) as error:  # of one job; the others can be shown
        job.note = str(error)
        return job, config
    errors = [line.removeprefix("error: ") for line in log_lines(path)[-1:] if line.startswith("error: ")]
    if metrics is not None:
        job.status, job.metrics, job.step = FINISHED, metrics, metrics.get("tested_step")
        if started:
            seconds = (path / "metrics.json").stat().st_mtime - datetime.fromisoformat(str(started)).timestamp()
            job.seconds = seconds if seconds >= 0 else None
    elif errors and not run.is_locked():
        job.status, job.note = FAILED, errors[0]
    else:
        job.status = RUNNING if run.is_locked() else UNFINISHED
        last = max((series.steps[-1] for series in curves.values()), default=None)
        job.note = "no step was logged" if last is None else f"{last:,.0f} steps were logged"
        if (monitor := config.get("monitor")) in curves:
            job.note += f", and {monitor} was {curves[monitor].values[-1]:.3f} when last measured"
    return job, config


def _value(key: str, text: str | None, config: dict[str, Any]) -> object:
    """A setting's value in the configuration, or as it was given; None if it is in neither."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if node is not None and not isinstance(node, dict):
        return node
    if text is None:
        return None
    with suppress(yaml.YAMLError):
        return float(text) if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text) else yaml.safe_load(text)
    return text


def _origin(folder: Path) -> tuple[list[str] | None, dict[str, float], list[str]]:
    """The sweep's command, the importance of its settings, and a note if Optuna can't say that."""
    hydra = (read_mapping(folder / "multirun.yaml") or {}).get("hydra")
    if not hydra:
        return None, {}, []
    given = [*hydra["overrides"]["hydra"], *hydra["overrides"]["task"]]
    how = [text for text in given if not text.startswith(("hydra.mode=", "hydra.sweep.dir="))]
    # With its folder, or it would be another sweep and not what is missing of this one.
    command = ["python", "train.py", "-m", *how, f"hydra.sweep.dir={folder}"]
    sweeper = hydra["sweeper"]
    if not sweeper["_target_"].endswith("OptunaSweeper"):
        return command, {}, []
    try:
        from captioning.sweeps.importance import importance_of_settings

        return command, importance_of_settings(folder, sweeper.get("storage"), sweeper.get("study_name")), []
    except Exception as error:  # of Optuna, which may be missing, or of a database's driver
        return command, {}, [f"Optuna doesn't say which settings matter: {' '.join(str(error).split())}"]
