"""What a report is made from: the files of a run folder, each of which may be missing."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pyarrow import ArrowInvalid

from captioning.errors import UserError
from captioning.metrics.metric import FloatArray
from captioning.runs.finished_run import read_predictions
from captioning.runs.run_folder import read_json_lines, read_list, read_mapping, read_text
from captioning.runs.thumbnails import NAME, read_thumbnails

if TYPE_CHECKING:
    from captioning.training.evaluator import Prediction

# The files that a report reads, and why a run folder may be without one.
WHY_MISSING = {
    ".hydra/config.yaml": "the run was started from Python",
    ".hydra/overrides.yaml": "the run was started from Python",
    "environment.json": "the run ended before its training began",
    "splits.json": "the run ended before its training began",
    "data.json": "the run ended before its training began",
    "metrics.csv": "the csv logger was off (logger=csv switches it on), or nothing was trained here",
    "metrics.json": "the run ended before its test, or still goes on",
    "predictions.jsonl": "the run ended before its test, or still goes on",
    "gallery.jsonl": "there was no validation yet, or nothing was trained here",
    "alarms.jsonl": "nothing was alarming, or the run is of an older version",
    "thumbnails.parquet": "the run ended before its test",
}


@dataclass(frozen=True)
class Series:
    """A number over training: steps in rising order, (points,), and values, (points,), which may be nan or infinite."""

    steps: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class Run:
    """A run folder's files as they were read; None (or nothing, of thumbnails) stands for a file that is missing."""

    folder: Path
    config: str | None
    settings: dict[str, Any]  # the same, read; empty where it is missing
    choices: dict[str, str]  # what was taken of each group of settings; empty where that isn't known
    overrides: list[str] | None
    environment: dict[str, Any] | None
    splits: dict[str, list[str]] | None
    data: dict[str, Any] | None
    metrics: dict[str, Any] | None
    curves: dict[str, Series] | None
    predictions: list[Prediction] | None
    gallery: list[dict[str, Any]] | None
    alarms: list[dict[str, Any]] | None
    thumbnails: Mapping[tuple[str, str], bytes]

    def lacks(self, name: str) -> str | None:
        """The sentence for a file that is missing; None for one that is there."""
        return None if (self.folder / name).exists() else f"{name} is missing: {WHY_MISSING[name]}, or it was removed."


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: none of its files is there, or one of them can't be read.
    """
    if not any((folder / name).exists() for name in WHY_MISSING):
        raise UserError(
            f"{folder}: no run folder, since nothing that a run writes is in it; name one, such as outputs/DATE/TIME"
        )
    hydra = (read_mapping(folder / ".hydra/hydra.yaml") or {}).get("hydra") or {}
    return Run(
        folder=folder,
        config=read_text(folder / ".hydra/config.yaml"),
        settings=read_mapping(folder / ".hydra/config.yaml") or {},
        choices=(hydra.get("runtime") or {}).get("choices") or {},
        overrides=read_list(folder / ".hydra/overrides.yaml"),
        environment=read_mapping(folder / "environment.json"),
        splits=read_mapping(folder / "splits.json"),
        data=read_mapping(folder / "data.json"),
        metrics=read_mapping(folder / "metrics.json"),
        curves=read_curves(folder / "metrics.csv"),
        predictions=_predictions(folder),
        gallery=read_json_lines(folder / "gallery.jsonl", keys={"step", "id", "references", "prediction"}),
        alarms=read_json_lines(folder / "alarms.jsonl", keys={"step", "split", "kind", "message"}),
        thumbnails=_thumbnails(folder),
    )


def read_curves(path: Path) -> dict[str, Series] | None:
    """Each column of a sparse table over its own steps; of a step that a resumed run took again, the last value.

    Loggers number steps from 0; here a step is how many were taken, as in the names of checkpoints and in the gallery.
    """
    text = read_text(path)
    if text is None:
        return None
    columns: dict[str, dict[float, float]] = {}
    whole_lines = text.split("\n")[:-1]  # the one after the last line break may still be being written
    try:
        for row in csv.DictReader(whole_lines):
            for name, value in row.items():
                if row.get("step") and name not in ("step", "epoch") and value:
                    columns.setdefault(name, {})[float(row["step"]) + 1] = float(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not a table of numbers ({error}); remove the file to do without it") from error
    return {name: Series(*np.array(sorted(points.items())).T) for name, points in columns.items()}


def _predictions(folder: Path) -> list[Prediction] | None:
    return list(read_predictions(folder).values()) if (folder / "predictions.jsonl").exists() else None


def _thumbnails(folder: Path) -> Mapping[tuple[str, str], bytes]:
    try:
        return read_thumbnails(folder)
    except ArrowInvalid as error:
        raise UserError(f"{folder / NAME}: not a Parquet file; remove the file to do without it") from error
