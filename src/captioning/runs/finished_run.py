"""What can be read of a run from its folder, years later and without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.errors import UserError
from captioning.runs.run_folder import read_mapping

if TYPE_CHECKING:
    from captioning.training.evaluator import Prediction

# Of environment.json: what two runs stood on. The rest always differs.
PROVENANCE = ("data_fingerprint", "evaluated_split", "git", "devices", "python", "packages", "cuda")


@dataclass(frozen=True)
class FinishedRun:
    """A run that has been tested. Settings and environment are texts by dotted key; None where there is no file."""

    folder: Path
    predictions: dict[str, Prediction]  # by id, in the order of the data
    metrics: dict[str, Any]
    settings: dict[str, str] | None
    environment: dict[str, str] | None


def read_run(folder: Path) -> FinishedRun:
    """Read a run folder.

    Raises:
        UserError: there is no such folder, it has no ``predictions.jsonl``, or one of its files is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of a run, such as outputs/DATE/TIME")
    settings = read_mapping(folder / ".hydra" / "config.yaml")
    environment = read_mapping(folder / "environment.json")
    return FinishedRun(
        folder=folder,
        predictions=read_predictions(folder),
        metrics=read_mapping(folder / "metrics.json") or {},
        settings=None if settings is None else flat(settings),
        environment=None if environment is None else flat({k: environment[k] for k in PROVENANCE if k in environment}),
    )


def read_predictions(folder: Path) -> dict[str, Prediction]:
    """The lines of ``predictions.jsonl`` by the id of their image.

    Raises:
        UserError: the file is missing, or a line of it is damaged, without a reference, or of an image that had one.
    """
    path = folder / "predictions.jsonl"
    if not path.is_file():
        raise UserError(f"{folder}: has no predictions.jsonl; a run writes it once its test has ended")
    predictions: dict[str, Prediction] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if trouble := _add(line, predictions):
            raise UserError(f"{path}, line {number}: {trouble}")
    return predictions


def _add(line: bytes, predictions: dict[str, Prediction]) -> str:
    """Add a line's prediction to the others. Returns what is wrong with it (empty: nothing)."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return "damaged, not a whole JSON object"
    match entry:
        case {"id": str(), "references": [], "prediction": str()}:
            return "the image has no reference to judge its caption by"
        case {"id": str(image), "references": [*references], "prediction": str()}:
            if not all(isinstance(reference, str) for reference in references):
                return "a reference isn't text"
            if image in predictions:
                return f"the image {image} is there twice"
            predictions[image] = entry
            return ""
    return 'not {"id": …, "references": […], "prediction": …}'


def flat(node: dict[Any, Any], prefix: str = "") -> dict[str, str]:
    """Values as text by dotted keys; an interpolation is the text that it is."""
    leaves: dict[str, str] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            is_text = isinstance(value, str) and value
            leaves[f"{prefix}{key}"] = value if is_text else json.dumps(value, ensure_ascii=False, default=str)
    return leaves
