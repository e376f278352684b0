"""What a run writes into its folder: at its start what it is, at its end what it found."""

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from rich.filesize import decimal

from captioning.errors import UserError
from captioning.runs.report.captions import chosen
from captioning.runs.report.page import write_report
from captioning.runs.run_folder import RunFolder, current_environment, write_model
from captioning.runs.summary import print_summary
from captioning.training.callbacks import callbacks_of_type
from captioning.training.callbacks.csv_logger import CaptionCSVLogger
from captioning.training.callbacks.throughput import Throughput
from captioning.training.callbacks.wandb_logger import wandb_loggers
from captioning.training.callbacks.weight_averaging import ExponentialMovingAverage
from captioning.training.datamodule import CaptionDataModule
from captioning.training.distributed.strategies import whole_network
from captioning.training.module import CaptionModule
from captioning.training.resume import ResumePoint

_log = logging.getLogger(__name__)
TEST_ARTIFACTS = ("metrics.json", "predictions.jsonl", "report.html")
RESULTS = (*TEST_ARTIFACTS, "metrics.csv", "gallery.jsonl", "alarms.jsonl", "thumbnails.parquet", "not_finite.json")
SHOWN = 8  # best and worst captions sent to the tracker, each


def require_no_weights(run: RunFolder, resume: ResumePoint | None) -> None:
    """Raise UserError where a run which begins would mix its weights with those of an earlier one."""
    if resume is None and (any(run.path.glob("checkpoints/*.ckpt")) or (run.path / "model").exists()):
        raise UserError(
            f"hydra.run.dir={run.path} holds the weights of an earlier run; resume it with resume={run.path}, take "
            "another folder, or remove that one"
        )


def require_disk_space(run: RunFolder, trainer: L.Trainer, module: CaptionModule) -> None:
    """Raise UserError where training would fill the disk: a checkpoint has weights, and moments of those trained."""
    callbacks = callbacks_of_type(trainer, ModelCheckpoint)
    # The newest, the one before it, and the one that is being written, beside the best.
    kept = 3 + sum(max(callback.save_top_k, 1) + bool(callback.save_last) for callback in callbacks)
    copies = 2 if callbacks_of_type(trainer, ExponentialMovingAverage) else 1  # the average and the raw weights
    trained, weights = module.count_weights()
    needed = 4 * (kept * (copies * weights + 2 * trained) + weights)
    if (free := shutil.disk_usage(run.path).free) < needed:
        raise UserError(
            f"hydra.run.dir={run.path}: {decimal(free)} are free, and {kept} checkpoints and the model need "
            f"{decimal(needed)}; make room, or take another disk with hydra.run.dir=DIR"
        )


def devices(trainer: L.Trainer) -> str:
    """What computes, and how precisely: ``2 x cuda, bf16-mixed``."""
    return f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}"


def write_initial(
    run: RunFolder,
    trainer: L.Trainer,
    data: CaptionDataModule,
    module: CaptionModule,
    *,
    config: str,
    overrides: Sequence[str],
) -> None:
    """Write what the run is: settings, versions, machine, splits, and what the data look like.

    ``config`` is the configuration as composed, in YAML. What an earlier run found in the folder is removed.
    """
    if earlier := [name for name in RESULTS if (run.path / name).exists()]:
        _log.warning(f"{run.path} holds an earlier run, whose results are replaced: {', '.join(earlier)}")
    for name in earlier:  # or it would pass for what this one found
        (run.path / name).unlink()
    _write_settings(run, config, overrides)
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in data.splits.items())
    _log.info(f"{counts} images; run folder {run.path}")
    facts = {"devices": devices(trainer), "data_fingerprint": data.fingerprint, "evaluated_split": data.eval_split}
    run.write_json("environment.json", current_environment(**facts))
    ids, summary = data.split_ids, data.summary
    run.write_json("splits.json", ids)
    run.write_json("data.json", summary)
    split = summary["samples"][0]["split"]
    rows = {name: row for row, name in enumerate(ids[split])}
    names = [sample["id"] for sample in summary["samples"]]
    run.add_thumbnails(split, {name: data.image(split, rows[name]) for name in names})


def write_resumed(
    run: RunFolder, trainer: L.Trainer, resume: ResumePoint, *, config: str, overrides: Sequence[str]
) -> None:
    """Write that the run is resumed, and take back what it wrote after the checkpoint."""
    resume.announce()
    for part in run.path.glob("checkpoints/.*.part"):  # of a process that was killed while it wrote
        part.unlink()
    for name in TEST_ARTIFACTS:
        (run.path / name).unlink(missing_ok=True)
    environment = dict(run.environment or {})
    _write_settings(run, config, overrides)
    kept = {name: environment[name] for name in ("data_fingerprint", "evaluated_split", "devices")}
    now = current_environment(**kept)
    for name, version in now["packages"].items():
        if (was := environment["packages"].get(name)) != version:
            _log.warning(f"the run began with {name} {was} and is resumed with {version}: its numbers may differ")
    step = resume.checkpoint.step
    again = {"resumed": now["started"], "step": step, "command": now["command"], "hostname": now["hostname"]}
    run.write_json("environment.json", {**environment, "resumed": [*environment.get("resumed", []), again]})
    for logger in trainer.loggers:
        if isinstance(logger, CaptionCSVLogger):
            logger.resume(before=step)
    _log.info(f"resuming after step {step:,}, from {resume.checkpoint.path}")


def _write_settings(run: RunFolder, config: str, overrides: Sequence[str]) -> None:
    run.write_text(".hydra/config.yaml", config)
    run.write_text(".hydra/overrides.yaml", yaml.safe_dump(list(overrides), allow_unicode=True))


def report_finished(run: RunFolder) -> dict[str, Any]:
    """The numbers of a run that is finished; the report, if the run was stopped before it, is written now."""
    _log.info(f"{run.path}: this run is finished; to train on, raise trainer.max_epochs. Its numbers: metrics.json")
    if not (run.path / "report.html").is_file():
        write_report(run.path)
        _log.info(f"report: {run.path / 'report.html'}")
    return run.metrics or {}


def best_checkpoint(trainer: L.Trainer) -> str | None:
    """The checkpoint with the best monitored score; None (the weights as they are) where none was kept."""
    kept = callbacks_of_type(trainer, ModelCheckpoint)
    return next((callback.best_model_path for callback in kept if callback.monitor and callback.best_model_path), None)


def write_final(
    run: RunFolder, trainer: L.Trainer, data: CaptionDataModule, module: CaptionModule, *, save_model: bool = True
) -> dict[str, Any]:
    """Write what the test found, and the model, and show it in the terminal; all processes call this.

    Returns the test numbers with their intervals, and, of a training, the validation numbers of the checkpoint that was
    tested, and the throughput.
    """
    evaluation = module.evaluations["test"]
    metrics = evaluation.metrics("test")
    if save_model:
        if best := best_checkpoint(trainer):
            checkpoint = torch.load(best, weights_only=True, mmap=True)
            metrics |= checkpoint["metrics"] | {"tested_step": checkpoint["global_step"]}
        else:
            metrics |= module.validation_metrics
        for throughput in callbacks_of_type(trainer, Throughput):
            metrics |= throughput.rates()
        network = whole_network(module)
    if trainer.is_global_zero:
        run.write_json_lines("predictions.jsonl", evaluation.predictions)
        if save_model:
            write_model(run.path / "model", network=network, processor=module.processor)
        worst_first = evaluation.scores.worst_first()

        def images(indices: Sequence[int]) -> list[Image.Image]:
            return [data.image(data.eval_split, evaluation.rows[index]) for index in indices]

        shown = chosen(worst_first)
        names = [evaluation.predictions[index]["id"] for index in shown]
        run.add_thumbnails("test", dict(zip(names, images(shown), strict=True)))
        for tracker in wandb_loggers(trainer):
            for name, indices in (("test/worst", worst_first[:SHOWN]), ("test/best", worst_first[::-1][:SHOWN])):
                predictions = [evaluation.predictions[index] for index in indices]
                tracker.log_captions(name, trainer.global_step, predictions, images(indices))
            tracker.log_results(metrics, run.path / "model" if save_model else None)
        run.write_json("metrics.json", with_reasons(metrics))  # last: with it the run is finished
        write_report(run.path)
        print_summary(metrics, evaluation.predictions, evaluation.scores, run.path, split=data.eval_split)
    trainer.strategy.barrier()
    return metrics


def with_reasons(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers fit for JSON, which has no NaN: one that isn't finite is null, and ``notes`` says why."""
    broken = {
        name: f"was {value}: the loss or the weights overflowed, and captions from such weights mean nothing"
        for name, value in metrics.items()
        if isinstance(value, float) and not math.isfinite(value)
    }
    finite = {name: None if name in broken else value for name, value in metrics.items()}
    return {**finite, "notes": broken} if broken else finite
