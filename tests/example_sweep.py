"""A sweep's folder as a sweep leaves it, written without training."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from example_run import write_example_run

STARTED = "2026-03-14T15:09:00+00:00"


def write_job(
    folder: Path,
    settings: Mapping[str, Any],
    score: float | None = None,
    *,
    monitor: str = "val/wer",
    **metrics: Any,
) -> Path:
    """Write the least that a job leaves: its configuration, what was given of it, and, with a score, its numbers."""
    config: dict[str, Any] = {"monitor": monitor, "output_dir": "${hydra:runtime.output_dir}", "seed": 42}
    config["model"] = {"lr": 0.001, "dropout": 0.1}
    for key, value in settings.items():
        *parents, last = key.split(".")
        node = config
        for part in parents:
            node = node.setdefault(part, {})
        if key != "model":  # of a group the configuration has the content only
            node[last] = value
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
    overrides = [f"{key}={json.dumps(value)}".replace('"', "") for key, value in settings.items()]
    (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(overrides))
    (folder / "environment.json").write_text(json.dumps({"started": STARTED}))
    if score is not None:
        write_numbers(folder, {monitor: score, **metrics})
    return folder


def write_numbers(folder: Path, metrics: Mapping[str, Any], *, seconds: float = 75) -> None:
    """Write the numbers of a job that took so long."""
    (folder / "metrics.json").write_text(json.dumps(metrics))
    ended = datetime.fromisoformat(STARTED).timestamp() + seconds
    os.utime(folder / "metrics.json", (ended, ended))


def write_failure(folder: Path, error: str, *overrides: str) -> Path:
    """Write the log of a job that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.log").write_text(f"$ {shlex.join(['python', 'train.py', *overrides])}\nTraceback:\nerror: {error}\n")
    return folder


def write_grid(folder: Path, scores: Mapping[str, Sequence[Any]], score: Any) -> Path:
    """A job, named by its number, for each combination of values, with the number that ``score`` gives it."""
    combinations: list[dict[str, Any]] = [{}]
    for key, values in scores.items():
        combinations = [one | {key: value} for one in combinations for value in values]
    for number, settings in enumerate(combinations):
        write_job(folder / str(number), settings, score(*settings.values()))
    (folder / "multirun.yaml").write_text("hydra: {}\n")
    return folder


def write_example_sweep(folder: Path, values: Sequence[Mapping[str, Any]], skills: Sequence[float], **run: Any) -> Path:
    """Whole run folders with captions of different skill; settings as given."""
    for number, (settings, skill) in enumerate(zip(values, skills, strict=True)):
        job = folder / str(number)
        write_example_run(job, skill=skill, **run)
        metrics = json.loads((job / "metrics.json").read_text())
        write_job(job, settings)
        write_numbers(job, metrics | {"val/wer": metrics["test/wer"] * 1.02}, seconds=300 + 40 * number)
        (job / "report.html").write_text("<!doctype html><title>A run</title>")
    task = [f"{key}={','.join(str(one[key]) for one in values)}" for key in values[0]]
    origin = {"overrides": {"hydra": ["hydra.mode=MULTIRUN", "hydra.sweep.dir=elsewhere"], "task": task}}
    origin["sweeper"] = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"}  # type: ignore[dict-item]
    (folder / "multirun.yaml").write_text(yaml.safe_dump({"hydra": origin}))
    return folder
