"""What a run writes into its folder: at its start what it stands on, at its end what it found."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L

from captioning import run_folder
from captioning.callbacks.wandb import wandb_loggers
from captioning.datamodule import CaptionDataModule
from captioning.evaluation import Evaluation
from captioning.module import CaptionModule
from captioning.report import write_report
from captioning.report.captions import chosen
from captioning.summary import print_summary
from captioning.thumbnails import add_thumbnails

_log = logging.getLogger(__name__)
RESULTS = (
    *("metrics.json", "metrics.csv", "predictions.jsonl", "gallery.jsonl"),
    *("alarms.jsonl", "thumbnails.parquet", "report.html"),
)
SHOWN = 8  # best and worst captions sent to the tracker, each


def begin(folder: Path, trainer: L.Trainer, datamodule: CaptionDataModule) -> None:
    """Write what the run stands on: versions, machine, splits, and what the data look like."""
    _clear(folder)
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in datamodule.splits.items())
    _log.info(f"{counts} pictures; run folder {folder}")
    devices = f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}"
    ground = {"data_fingerprint": datamodule.fingerprint, "evaluated_split": datamodule.tested}
    run_folder.write_json(folder / "environment.json", run_folder.environment(devices=devices, **ground))
    ids, summary = datamodule.split_ids, datamodule.summary
    run_folder.write_json(folder / "splits.json", ids)
    run_folder.write_json(folder / "data.json", summary)
    split = summary["samples"][0]["split"]
    rows = {name: row for row, name in enumerate(ids[split])}
    names = [sample["id"] for sample in summary["samples"]]
    add_thumbnails(folder, split, {name: datamodule.picture(split, rows[name]) for name in names})


def finish(
    folder: Path,
    trainer: L.Trainer,
    datamodule: CaptionDataModule,
    module: CaptionModule,
    metrics: Mapping[str, Any],
    *,
    model_folder: Path | None,
) -> None:
    """Write what the run found, its model too where ``model_folder`` is given, and show it in the terminal."""
    evaluation = module.evaluations["test"]
    run_folder.write_json(folder / "metrics.json", with_reasons(metrics))
    run_folder.write_json_lines(folder / "predictions.jsonl", evaluation.predictions)
    if model_folder:
        run_folder.write_model(model_folder, network=module.network, processor=module.processor)
    worst_first = evaluation.scores.worst_first()
    _add_test_thumbnails(folder, datamodule, evaluation, worst_first)
    for tracker in wandb_loggers(trainer):
        for name, indices in (("test/worst", worst_first[:SHOWN]), ("test/best", worst_first[::-1][:SHOWN])):
            predictions = [evaluation.predictions[index] for index in indices]
            pictures = [datamodule.picture(datamodule.tested, evaluation.rows[index]) for index in indices]
            tracker.log_captions(name, trainer.global_step, predictions, pictures)
        tracker.log_results(metrics, model_folder)
    write_report(folder)
    print_summary(metrics, evaluation, folder, split=datamodule.tested)


def with_reasons(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers fit for JSON, which has no NaN: one that isn't finite is null, and ``notes`` says why."""
    broken = {
        name: f"was {value}: the loss or the weights overflowed, and captions from such weights mean nothing"
        for name, value in metrics.items()
        if isinstance(value, float) and not math.isfinite(value)
    }
    finite = {name: None if name in broken else value for name, value in metrics.items()}
    return {**finite, "notes": broken} if broken else finite


def _clear(folder: Path) -> None:
    """Remove what an earlier run found, or it would pass for what this one did."""
    if earlier := [folder / name for name in RESULTS if (folder / name).exists()]:
        _log.warning(f"{folder} holds an earlier run, whose results are replaced: {', '.join(p.name for p in earlier)}")
    for path in earlier:
        path.unlink()


def _add_test_thumbnails(
    folder: Path, datamodule: CaptionDataModule, evaluation: Evaluation, worst_first: list[int]
) -> None:
    """The pictures that the report shows."""
    pictures = {
        evaluation.predictions[index]["id"]: datamodule.picture(datamodule.tested, evaluation.rows[index])
        for index in chosen(worst_first)
    }
    add_thumbnails(folder, "test", pictures)
