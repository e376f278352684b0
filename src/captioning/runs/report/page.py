"""From a run folder to a page: what each section says, and the template around it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import yaml

from captioning.data.statistics import spread
from captioning.errors import UserError
from captioning.metrics.corpus import words
from captioning.metrics.metric_info import FEW_IMAGES, METRIC_INFO
from captioning.runs.report import plots
from captioning.runs.report.captions import caption_rows, equals_a_reference, frequent_captions
from captioning.runs.report.numbers import HEADLINES, metric_rows, numbers_of_split
from captioning.runs.report.templates import render_template
from captioning.runs.run_folder import Json, RunFolder
from captioning.runs.thumbnails import data_uris

# The files that a report reads, and why a run folder may be without one.
WHY_MISSING = {
    **dict.fromkeys((".hydra/config.yaml", ".hydra/overrides.yaml"), "the run was started from Python"),
    **dict.fromkeys(("environment.json", "splits.json", "data.json"), "the run ended before its training began"),
    "metrics.csv": "the csv logger was off (logger=csv switches it on), or nothing was trained here",
    **dict.fromkeys(("metrics.json", "predictions.jsonl"), "the run ended before its test, or is still running"),
    "gallery.jsonl": "there was no validation yet, or nothing was trained here",
    "alarms.jsonl": "there was no alarm",
    "thumbnails.parquet": "the run ended before its test",
}
MAX_VALIDATIONS = 60
SPEED = {
    "images_per_second": "Images per second",
    "seconds_per_step": "Seconds per step",
    "data_wait_share": "Share of the time spent waiting for data",
    "memory_gb": "Peak memory, GB",
    "mfu": "Model FLOPs utilization",
}


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run folder, from that folder alone; a file that is missing costs its section only.

    Raises:
        UserError: ``folder`` is no run folder, or a file of it can't be read.
    """
    run = RunFolder(folder)
    run.write_text("report.html", render(run))
    return folder / "report.html"


def render(run: RunFolder) -> str:
    """The page. What comes from the run is escaped."""
    missing = {name: why for name, why in WHY_MISSING.items() if not (run.path / name).exists()}
    if len(missing) == len(WHY_MISSING):
        raise UserError(f"{run.path}: no run folder, it is empty of results; name one, such as outputs/DATE/TIME")
    environment, data, predictions = run.environment or {}, run.data or {}, list((run.predictions or {}).values())
    rows, samples = caption_rows(predictions), data.get("samples", [])
    keys = [("test", row.id) for row in rows]
    keys += [("val", line["id"]) for line in run.gallery or []]
    keys += [(sample["split"], sample["id"]) for sample in samples]
    counted = {name: facts for name, facts in data.get("splits", {}).items() if facts.get("caption_words")}
    images = len(predictions) or len((run.splits or {}).get("test", []))
    alarms: dict[tuple[str, str], list[Json]] = {}  # those of one kind together
    for line in run.alarms or []:
        alarms.setdefault((line["split"], line["kind"]), []).append(line)
    language = None
    if predictions:
        captions = [line["prediction"] for line in predictions]
        references = [reference for line in predictions for reference in line["references"]]
        sides = {"predictions": captions, "references": references}
        counts = {side: [len(words(caption)) for caption in texts] for side, texts in sides.items()}
        language = {"lengths": plots.caption_lengths(counts, size="wide"), "frequent": frequent_captions(captions)}
    return render_template(
        "template.html",
        styles=["style.css"],
        scripts=["sortable.js", "script.js"],
        run=run,
        missing=missing,
        config=None if run.config is None else yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
        images=data_uris(run.thumbnails, keys),
        title=title(run),
        head=_head(run),
        alarms=alarms,
        numbers=metric_rows(run.metrics or {}),
        headlines=HEADLINES,
        few_images=0 < images < FEW_IMAGES,
        curves=_curves(run),
        gallery=_gallery(run),
        rows=rows,
        language=language,
        splits={name: numbers_of_split(facts) for name, facts in counted.items()},
        findings=data.get("findings", []),
        samples=samples,
        again=_again(run),
        split=environment.get("evaluated_split", "test"),
        versions={"python": environment.get("python"), **environment.get("packages", {})},
    )


def title(run: RunFolder) -> str:
    """What a run is in a few words: ``git-tiny on creatures``."""
    config = run.config or {}
    model, data = config.get("model") or {}, config.get("data") or {}
    weights = model.get("checkpoint") or _choices(run).get("model") or ("GIT" if model else "a run")
    images = data.get("path") or _choices(run).get("data") or data.get("source")
    return f"{_last_part(weights)} on {_last_part(images)}" if images else _last_part(weights)


def _choices(run: RunFolder) -> dict[str, str]:
    given = dict(override.split("=", 1) for override in run.overrides or [] if "=" in override)
    return {**run.hydra_runtime.get("choices", {}), **given}


def _last_part(path: object) -> str:
    """A folder's own name; of a Hub name (USER/NAME) all of it."""
    return Path(str(path)).name if str(path).startswith(("/", "~", ".")) else str(path)


def _head(run: RunFolder) -> dict[str, str]:
    """Facts, of which any may be unknown and is then left out."""
    environment, config, choices = run.environment or {}, run.config or {}, _choices(run)
    model, data, git = config.get("model") or {}, config.get("data") or {}, environment.get("git") or {}
    split, step = environment.get("evaluated_split", "test"), (run.metrics or {}).get("tested_step")
    started = environment.get("started")
    changed = "" if git.get("clean") else ", with changes that were not committed"
    scratch = f"{choices.get('model', 'a GIT')}, from random weights" if model else None
    facts = {
        "Model": model.get("checkpoint") or scratch,
        "Data": data.get("path") or data.get("source"),
        "Experiment": choices.get("experiment"),
        "Images": ", ".join(f"{len(ids):,} {split}" for split, ids in (run.splits or {}).items()),
        "Evaluated": None if split == "test" else f"split {split}",
        "Checkpoint": f"step {step:,}, the best by {config.get('monitor', 'its monitor')}" if step else None,
        "Started": f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M}" if started else None,
        "Devices": environment.get("devices"),
        "Code": f"commit {git['commit'][:10]}{changed}" if git.get("commit") else None,
        "Run folder": run.path.resolve().name,
    }
    return {name: str(value) for name, value in facts.items() if value}


def _curves(run: RunFolder) -> dict[str, list[tuple[str, plots.Plot]]]:
    """Titles and plots by group: ``train``, ``val`` (what matters most), ``more`` validation numbers, and ``speed``."""
    curves, tested = run.curves or {}, (run.metrics or {}).get("tested_step")

    def figures(labels: Mapping[str, str], phase: str = "val") -> list[tuple[str, plots.Plot]]:
        columns = {f"{phase}/{name}": label for name, label in labels.items() if f"{phase}/{name}" in curves}
        return [(label, plots.curves({name: curves[name]}, tested=tested)) for name, label in columns.items()]

    labels = {name: info.label for name, info in METRIC_INFO.items() if name != "loss"}
    main = (*HEADLINES, "cer", "rouge_l")
    loss = {name: series for name, series in curves.items() if name in ("train/loss", "val/loss")}
    of_loss = [("Loss", plots.curves(loss, tested=tested, size="wide"))] if loss else []
    return {
        "train": of_loss + figures({"lr": "Learning rate"}, "train"),
        "val": figures({name: label for name, label in labels.items() if name in main}),
        "more": figures({name: label for name, label in labels.items() if name not in main}),
        "speed": figures(SPEED, "train"),
    }


def _gallery(run: RunFolder) -> Json | None:
    """The validation images with the caption of each shown validation (None where it has none) beside each other."""
    lines, tested = run.gallery, (run.metrics or {}).get("tested_step")
    if not lines:
        return None
    every = sorted({line["step"] for line in lines})
    steps = spread(every, MAX_VALIDATIONS)
    texts = {(line["id"], line["step"]): line["prediction"] for line in lines}
    images = []
    for name, references in {line["id"]: line["references"] for line in lines}.items():
        captions = [texts.get((name, step)) for step in steps]
        marked = [None if text is None else (text, equals_a_reference(text, references)) for text in captions]
        images.append({"id": name, "references": references, "captions": marked})
    columns = zip(*(image["captions"] for image in images), strict=True)
    return {
        "steps": [f"step {step:,}{', the tested checkpoint' if step == tested else ''}" for step in steps],
        "matches": [sum(bool(caption and caption[1]) for caption in column) for column in columns],
        "validations": len(every),
        "images": images,
    }


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
    note = "" if git.get("clean") else "The code had changes that aren't in this commit: results may differ."
    return {"commands": f"git checkout {git['commit']}\n{command}", "note": note}
