"""From a run folder to a page: what each section says, and the template around it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from captioning.data.statistics import spread
from captioning.errors import UserError
from captioning.metrics.corpus import words
from captioning.metrics.metric_info import FEW_IMAGES, METRIC_INFO
from captioning.runs.report import plots
from captioning.runs.report.captions import caption_rows, equals_a_reference, frequent_captions, word_usage
from captioning.runs.report.numbers import HEADLINES, number_rows, numbers_of_split
from captioning.runs.report.templates import render_template
from captioning.runs.run_folder import Prediction, RunFolder, Series
from captioning.runs.thumbnails import data_uris

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
MOST_VALIDATIONS = 60
SPEED = ("images_per_second", "seconds_per_step", "data_wait_share", "memory_gb", "mfu")


def render(run: RunFolder) -> str:
    """The page. What comes from the run is escaped; only the plots, the style and the script are taken as they are."""
    if not any((run.path / name).exists() for name in WHY_MISSING):
        raise UserError(
            f"{run.path}: no run folder, since nothing that a run writes is in it; name one, such as outputs/DATE/TIME"
        )
    missing = {name: why for name, why in WHY_MISSING.items() if not (run.path / name).exists()}
    predictions = list((run.predictions or {}).values())
    rows = caption_rows(predictions)
    samples = (run.data or {}).get("samples", [])
    keys = [("test", row.id) for row in rows]
    keys += [("val", line["id"]) for line in run.gallery or []]
    keys += [(sample["split"], sample["id"]) for sample in samples]
    return render_template(
        "template.html",
        styles=["style.css"],
        scripts=["sortable.js", "script.js"],
        run=run,
        missing=missing,
        config=None if run.config is None else yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
        images=data_uris(run.thumbnails, keys),
        head=_head(run),
        alarms=_alarms(run.alarms or []),
        numbers=number_rows(run.metrics, images=_test_images(run)) if run.metrics is not None else [],
        headlines=HEADLINES,
        few_images=(_test_images(run) or FEW_IMAGES) < FEW_IMAGES,
        curves=_curves(run),
        gallery=_gallery(run),
        rows=rows,
        language=_language(predictions),
        splits={split: numbers_of_split(facts) for split, facts in _splits(run).items()},
        findings=_findings(run.data or {}),
        samples=samples,
        again=_again(run),
        split=(run.environment or {}).get("evaluated_split", "test"),
        versions={"python": (run.environment or {}).get("python"), **(run.environment or {}).get("packages", {})},
    )


def _head(run: RunFolder) -> dict[str, str]:
    """Title and facts, of which any may be unknown and is then left out."""
    environment, settings = run.environment or {}, run.config or {}
    chosen = run.hydra_runtime.get("choices", {}) | dict(
        override.split("=", 1) for override in run.overrides or [] if "=" in override
    )
    model, data = settings.get("model") or {}, settings.get("data") or {}
    weights = chosen.get("model.checkpoint", model.get("checkpoint"))
    if weights in (None, "null"):
        weights = f"{chosen.get('model', 'a GIT')}, from random weights" if model else None
    split, step = environment.get("evaluated_split", "test"), (run.metrics or {}).get("tested_step")
    git = environment.get("git") or {}
    changed = "" if git.get("clean") else ", with changes that were not committed"
    facts = {
        "Model": weights,
        "Data": data.get("path") or data.get("source"),
        "Experiment": chosen.get("experiment"),
        "Images": ", ".join(f"{len(ids):,} {split}" for split, ids in (run.splits or {}).items()),
        "Evaluated": None if split == "test" else f"split {split}",
        "Checkpoint": f"step {step:,}, the best by {settings.get('monitor')}" if step else None,
        "Started": _started(run),
        "Devices": environment.get("devices"),
        "Code": f"commit {git['commit'][:10]}{changed}" if git.get("commit") else None,
        "Run folder": run.path.resolve().name,
    }
    return {name: str(value) for name, value in facts.items() if value}


def _started(run: RunFolder) -> str | None:
    started = (run.environment or {}).get("started")
    if started:
        return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M}"
    for name in ("environment.json", ".hydra/config.yaml"):
        if (run.path / name).exists():
            written = datetime.fromtimestamp((run.path / name).stat().st_mtime)
            return f"{written:%Y-%m-%d %H:%M} (the time of {name})"
    return None


class Alarm(NamedTuple):
    """Alarms of one kind: the latest message, and when they were raised."""

    kind: str
    message: str
    when: str


def _alarms(lines: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        kinds.setdefault((line.get("split", ""), line["kind"]), []).append(line)
    alarms = []
    for (split, kind), same in kinds.items():
        first, last = same[0].get("step"), same[-1].get("step")
        when = f"step {first}" if len(same) == 1 else f"{len(same)} times, at steps {first} to {last}"
        when = when if first is not None else ""
        alarms.append(Alarm(kind, same[-1]["message"], f"{split}, {when}" if when else split))
    return alarms


def _test_images(run: RunFolder) -> int | None:
    if run.predictions:
        return len(run.predictions)
    return len(run.splits["test"]) if run.splits and "test" in run.splits else None


class Figure(NamedTuple):
    """A plot with its title."""

    title: str
    plot: plots.Plot


def _curves(run: RunFolder) -> dict[str, list[Figure]]:
    """Plots by group: ``train``, ``val`` (what matters most), ``more`` validation numbers, and ``speed``."""
    curves, tested = run.curves or {}, (run.metrics or {}).get("tested_step")
    order = [f"val/{name}" for name in METRIC_INFO if name != "loss"]
    main = [f"val/{name}" for name in (*HEADLINES, "cer", "rouge_l")]

    def figures(names: Iterable[str]) -> list[Figure]:
        shown = [name for name in names if name in curves]
        return [Figure(_title(name), plots.curves({name: curves[name]}, tested=tested)) for name in shown]

    loss: dict[str, Series] = {name: curves[name] for name in ("train/loss", "val/loss") if name in curves}
    of_loss = [Figure("Loss", plots.curves(loss, tested=tested, size="wide"))] if loss else []
    return {
        "train": of_loss + figures(["train/lr"]),
        "val": figures(name for name in order if name in main),
        "more": figures(name for name in order if name not in main),
        "speed": figures(f"train/{name}" for name in SPEED),
    }


def _title(column: str) -> str:
    name = column.partition("/")[2]
    titles = {
        "lr": "Learning rate",
        "data_wait_share": "Share of the time that waits for data",
        "memory_gb": "Peak memory, GB",
        "mfu": "Model FLOPs utilization",
    }
    return METRIC_INFO[name].label if name in METRIC_INFO else titles.get(name, name.replace("_", " ").capitalize())


class GalleryImage(NamedTuple):
    """A validation image with its caption at each shown validation (None where it has none)."""

    id: str
    references: list[str]
    captions: list[tuple[str, bool] | None]


class Gallery(NamedTuple):
    """``steps`` are labels of the shown validations, of ``validations`` in all; ``matches`` counts equal captions."""

    steps: list[str]
    matches: list[int]
    validations: int
    images: list[GalleryImage]


def _gallery(run: RunFolder) -> Gallery | None:
    lines, tested = run.gallery, (run.metrics or {}).get("tested_step")
    if not lines:
        return None
    every = sorted({line["step"] for line in lines})
    steps = spread(every, MOST_VALIDATIONS)
    said = {(line["id"], line["step"]): line["prediction"] for line in lines}
    references = {line["id"]: line["references"] for line in lines}

    def caption(key: str, step: int) -> tuple[str, bool] | None:
        text = said.get((key, step))
        return None if text is None else (text, equals_a_reference(text, references[key]))

    images = [GalleryImage(key, references[key], [caption(key, step) for step in steps]) for key in references]
    columns = zip(*(image.captions for image in images), strict=True)
    return Gallery(
        steps=[f"step {step:,}{', the tested checkpoint' if step == tested else ''}" for step in steps],
        matches=[sum(bool(caption and caption[1]) for caption in column) for column in columns],
        validations=len(every),
        images=images,
    )


def _language(predictions: Sequence[Prediction]) -> dict[str, Any] | None:
    """Lengths, words that one side uses more, and frequent captions."""
    if not predictions:
        return None
    said = [line["prediction"] for line in predictions]
    true = [reference for line in predictions for reference in line["references"]]
    less, more = word_usage(said, true)
    return {
        "lengths": plots.lengths([len(words(caption)) for caption in said], [len(words(caption)) for caption in true]),
        "less": less,
        "more": more,
        "highest": max((max(usage[1:]) for usage in less + more), default=1),
        "frequent": frequent_captions(said),
    }


def _splits(run: RunFolder) -> dict[str, Any]:
    splits = (run.data or {}).get("splits", {})
    return {split: facts for split, facts in splits.items() if facts.get("caption_words")}


def _findings(data: Mapping[str, Any]) -> list[tuple[str, str, int, list[str]]]:
    """What the check found: severity, kind, number, and some of the names."""
    return [
        (finding["severity"], finding["kind"], len(finding["names"]), finding["names"][:20])
        for finding in data.get("findings", [])
    ]


def _again(run: RunFolder) -> dict[str, str]:
    """The commands that run it again, and what has to be said about them."""
    environment = run.environment or {}
    _, program, *arguments = environment.get("command") or ["python", "train.py"]
    if Path(program).name == "captioning":  # `captioning evaluate`, whose overrides aren't all of it
        command = shlex.join(["captioning", *arguments])
    else:
        command = shlex.join(["python", "train.py", *(run.overrides or [])])
    git = environment.get("git") or {}
    if not git.get("commit"):
        return {"commands": command, "note": "The commit isn't known."}
    note = "" if git.get("clean") else "The code had changes that this commit doesn't hold, so the same isn't promised."
    return {"commands": f"git checkout {git['commit']}\n{command}", "note": note}
