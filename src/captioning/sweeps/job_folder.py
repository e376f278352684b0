"""The folders of jobs, as a sweep or single runs leave them, and what their files say of each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from captioning.errors import UserError
from captioning.runs.run_folder import RunFolder
from captioning.sweeps.folder import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    NOT_STARTED,
    RUNNING,
    JobRecord,
    SweepFolder,
    is_running,
    read_record,
)

UNFINISHED = "unfinished"  # of a run that no sweep keeps a record of
STATUSES = (FINISHED, RUNNING, INTERRUPTED, UNFINISHED, NOT_STARTED, FAILED)
RUN_ARTIFACTS = (
    ".hydra",
    "environment.json",
    "metrics.json",
    "job.json",
    "checkpoints",
)  # one of them makes a run folder
IGNORED = ("resume", "output_dir", "hydra")  # say where and how a job ran, and not what it was
MISSING = object()


@dataclass
class JobFolder:
    """A job's folder with what was read of it.

    Attributes:
        name: the folder, as seen from the sweep's.
        folder: where it is.
        config: the configuration as composed; None where there is none.
        overrides: what was given on its command line.
        metrics: its final numbers; None where there are none yet.
        record: what its sweep knows of it; None where no sweep ran it.
        started: when it was last started.
        trouble: which of its files can't be read, and why.
    """

    name: str
    folder: Path
    config: dict[str, Any] | None = None
    overrides: list[str] = field(default_factory=list)
    metrics: dict[str, Any] | None = None
    record: JobRecord | None = None
    started: datetime | None = None
    trouble: str = ""

    @property
    def given(self) -> dict[str, str]:
        """The values given on the command line, as text, by their dotted keys."""
        return {_key(text): text.partition("=")[2] for text in self.overrides}

    def value(self, key: str) -> Any:
        """The value of a setting, as the configuration has it; of a group, what was chosen; else ``MISSING``."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part, MISSING) if isinstance(node, dict) else MISSING
        if node is MISSING or isinstance(node, dict):
            return _plain(self.given[key]) if key in self.given else self._choices().get(key, MISSING)
        return node

    def status(self, monitor: str) -> tuple[str, str]:
        """One of ``STATUSES``, and what is known beside it.

        What its sweep recorded counts, unless the job was gone on with since.
        """
        record = self.record
        if self.trouble:
            return UNFINISHED, self.trouble
        if record and record.status == RUNNING and is_running(record.host, record.pid):
            return RUNNING, self._so_far(monitor)
        if self.metrics is not None and not (record and record.status == FAILED and self._is_older(record)):
            return FINISHED, ""
        if record is None:
            return UNFINISHED, f"its files don't say whether it still runs; {self._so_far(monitor)}"
        if record.status == RUNNING:
            return INTERRUPTED, f"process {record.pid} on {record.host} is gone; {self._so_far(monitor)}"
        if record.status == FAILED:
            return FAILED, record.error or f"exit status {record.exit_status}"
        return record.status, record.error or self._so_far(monitor)

    def seconds(self, *, is_on: bool) -> float | None:
        """How long it took as its sweep recorded it, else from its start to its numbers; ``is_on``, until now."""
        if self.record:
            since = datetime.now().astimezone() - datetime.fromisoformat(self.record.started) if is_on else timedelta()
            return self.record.seconds + since.total_seconds()
        if self.metrics is None or self.started is None:
            return None
        seconds = (self.folder / "metrics.json").stat().st_mtime - self.started.timestamp()
        return seconds if seconds >= 0 else None

    def _choices(self) -> dict[str, Any]:
        try:
            return dict(RunFolder(self.folder).hydra_runtime["choices"])
        except (UserError, OSError, KeyError, TypeError, ValueError):
            return {}

    def _is_older(self, record: JobRecord) -> bool:
        """Whether its numbers were written before its record."""
        written = (self.folder / "metrics.json").stat().st_mtime
        return record.ended is None or written <= datetime.fromisoformat(record.ended).timestamp()

    def _so_far(self, monitor: str) -> str:
        """How far it came."""
        try:
            curves = RunFolder(self.folder).curves or {}
        except (UserError, OSError):
            curves = {}
        if not curves:
            return "no step was logged"
        last = max(series.steps[-1] for series in curves.values())
        if monitor not in curves:
            return f"{last:,.0f} steps were logged, and no {monitor}"
        return f"{last:,.0f} steps were logged, and {monitor} was {curves[monitor].values[-1]:.3f} when last measured"


def job_folders(folder: Path) -> list[JobFolder]:
    """Every run below a folder, and every job that its sweep knows of but that left nothing."""
    paths = set(_run_folders(folder))
    recorded = {folder / _place(record, folder): record for record in _records(folder)}
    lost = {path: record for path, record in recorded.items() if path not in paths}
    return [_read(path, folder, lost.get(path)) for path in sorted(paths | set(lost), key=_natural)]


def is_run(folder: Path) -> bool:
    """Whether a folder has what a run leaves."""
    return any((folder / name).exists() for name in RUN_ARTIFACTS)


def is_ignored(key: str) -> bool:
    """Whether a setting says nothing of what a job was."""
    return re.split(r"[./@]", key, maxsplit=1)[0] in IGNORED


def _run_folders(folder: Path) -> Iterator[Path]:
    """Run folders below a folder. What lies within a run, behind a link or in a hidden folder isn't looked at."""
    is_sweep = (folder / "multirun.yaml").exists()
    for parent, names, files in os.walk(folder):
        path = Path(parent)
        if path != folder and (is_run(path) or (is_sweep and not names and not files)):  # a job that left nothing
            names.clear()
            yield path
        names[:] = [name for name in names if not name.startswith(".")]


def _records(folder: Path) -> list[JobRecord]:
    try:
        return list(SweepFolder(folder).told().values())
    except (OSError, ValueError, TypeError):  # what a sweep keeps for itself, of another version or damaged
        return []


def _place(record: JobRecord, folder: Path) -> Path:
    """Where a job's folder is in the sweep's, which may have been moved since."""
    path = Path(record.folder).absolute()
    return path.relative_to(folder.absolute()) if path.is_relative_to(folder.absolute()) else Path(path.name)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts 10 after 9."""
    pieces = re.findall(r"\d+|\D+", str(path))
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]


def _read(path: Path, sweep: Path, record: JobRecord | None) -> JobFolder:
    job = JobFolder(path.relative_to(sweep).as_posix(), path, record=record or read_record(path))
    try:
        run = RunFolder(path)
        overrides = run.overrides or (job.record.overrides if job.record else [])
        job.overrides = [text for text in map(str, overrides) if not is_ignored(_key(text))]
        job.config = run.config
        job.started = _started(run.environment or {})
        job.metrics = run.metrics
    except (UserError, OSError) as error:  # of one job; the others are there to be seen
        job.trouble = str(error)
    return job


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _plain(text: str) -> Any:
    """A value of the command line as a configuration has it: 32 and not "32"."""
    try:
        return float(text) if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text) else yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _started(environment: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(environment.get("started")))
    except ValueError:
        return None
