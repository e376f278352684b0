"""What a run writes into its folder: at its start what it stands on, at its end what it found."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from captioning.models.git import GitForCausalLM
from captioning.runs.report import write_report
from captioning.runs.report.captions import chosen
from captioning.runs.run_folder import RunFolder, current_environment, write_model
from captioning.runs.summary import print_summary
from captioning.training.callbacks.csv_logger import CaptionCSVLogger
from captioning.training.callbacks.wandb_logger import wandb_loggers
from captioning.training.datamodule import CaptionDataModule
from captioning.training.evaluator import Evaluation
from captioning.training.module import CaptionModule
from captioning.training.resume import ResumePoint, overrides_given

_log = logging.getLogger(__name__)
TEST_ARTIFACTS = ("metrics.json", "predictions.jsonl", "report.html")
RESULTS = (*TEST_ARTIFACTS, "metrics.csv", "gallery.jsonl", "alarms.jsonl", "thumbnails.parquet", "not_finite.json")
SHOWN = 8  # best and worst captions sent to the tracker, each


def begin(
    folder: Path, trainer: L.Trainer, datamodule: CaptionDataModule, cfg: Any, overrides: Sequence[str] | None = None
) -> None:
    """Write what the run stands on: settings, versions, machine, splits, and what the data look like."""
    _clear(folder)
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    write_settings(folder, cfg, overrides_given() if overrides is None else overrides, hydra)
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in datamodule.splits.items())
    _log.info(f"{counts} images; run folder {folder}")
    devices = f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}"
    ground = {"data_fingerprint": datamodule.fingerprint, "evaluated_split": datamodule.eval_split}
    run = RunFolder(folder)
    run.write_json("environment.json", current_environment(devices=devices, **ground))
    ids, summary = datamodule.split_ids, datamodule.summary
    run.write_json("splits.json", ids)
    run.write_json("data.json", summary)
    split = summary["samples"][0]["split"]
    rows = {name: row for row, name in enumerate(ids[split])}
    names = [sample["id"] for sample in summary["samples"]]
    run.add_thumbnails(split, {name: datamodule.image(split, rows[name]) for name in names})


def write_settings(folder: Path, cfg: Any, overrides: Sequence[str], hydra: Any = None) -> None:
    """Write ``.hydra``, as Hydra itself would: the settings as composed, what was given, and Hydra's own settings."""
    run = RunFolder(folder)
    run.write_text(".hydra/config.yaml", OmegaConf.to_yaml(cfg))
    run.write_text(".hydra/overrides.yaml", yaml.safe_dump(list(overrides), allow_unicode=True))
    if hydra is not None:
        run.write_text(".hydra/hydra.yaml", OmegaConf.to_yaml({"hydra": hydra}))


def go_on(trainer: L.Trainer, cfg: Any, load_resume_point: ResumePoint) -> None:
    """Write that the run goes on, and take back what it wrote after the checkpoint that it goes on from."""
    folder, found = load_resume_point.folder, load_resume_point.found
    load_resume_point.begin()
    for part in (folder / "checkpoints").glob(".*.part"):  # of a process that was killed while it wrote
        part.unlink()
    for name in TEST_ARTIFACTS:
        (folder / name).unlink(missing_ok=True)
    write_settings(folder, cfg, load_resume_point.overrides)
    run = RunFolder(folder)
    environment = run.environment or {}
    ground = {name: environment[name] for name in ("data_fingerprint", "evaluated_split", "devices")}
    now = current_environment(**ground)
    _warn_of_versions(environment, now)
    again = {"resumed": now["started"], "step": found.step, "command": now["command"], "hostname": now["hostname"]}
    environment["resumed"] = [*environment.get("resumed", []), again]
    run.write_json("environment.json", environment)
    for logger in trainer.loggers:
        if isinstance(logger, CaptionCSVLogger):
            logger.go_on(before=found.step)
    for tracker in wandb_loggers(trainer):
        tracker.go_on()
    _log.info(f"going on after step {found.step:,}, from {found.path}")


def _warn_of_versions(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name, version in now["packages"].items():
        if (was := before["packages"].get(name)) != version:
            _log.warning(f"the run began with {name} {was} and goes on with {version}: its numbers may differ")


def tell_again(folder: Path) -> dict[str, Any]:
    """The numbers of a run that has ended, which are told. A report that it was stopped before is written now."""
    metrics = RunFolder(folder).metrics or {}
    _log.info(f"{folder}: this run has ended, and there is nothing that changes; its numbers are in metrics.json")
    if not (folder / "report.html").is_file():
        write_report(folder)
        _log.info(f"what there is to look at is in {folder / 'report.html'}")
    return metrics


def finish(
    folder: Path,
    trainer: L.Trainer,
    datamodule: CaptionDataModule,
    module: CaptionModule,
    metrics: Mapping[str, Any],
    *,
    network: GitForCausalLM | None = None,
    model_folder: Path | None,
) -> None:
    """Write what the run found, its ``network`` too where ``model_folder`` is given, and show it in the terminal."""
    evaluation = module.evaluations["test"]
    run = RunFolder(folder)
    run.write_json_lines("predictions.jsonl", evaluation.predictions)
    if model_folder:
        write_model(model_folder, network=network, processor=module.processor)
    worst_first = evaluation.scores.worst_first()
    _add_test_thumbnails(run, datamodule, evaluation, worst_first)
    for tracker in wandb_loggers(trainer):
        for name, indices in (("test/worst", worst_first[:SHOWN]), ("test/best", worst_first[::-1][:SHOWN])):
            predictions = [evaluation.predictions[index] for index in indices]
            images = [datamodule.image(datamodule.eval_split, evaluation.rows[index]) for index in indices]
            tracker.log_captions(name, trainer.global_step, predictions, images)
        tracker.log_results(metrics, model_folder)
    run.write_json("metrics.json", with_reasons(metrics))  # last: with it the run has ended
    write_report(folder)
    print_summary(metrics, evaluation.predictions, evaluation.scores, folder, split=datamodule.eval_split)


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
    run: RunFolder, datamodule: CaptionDataModule, evaluation: Evaluation, worst_first: list[int]
) -> None:
    """The images that the report shows."""
    images = {
        evaluation.predictions[index]["id"]: datamodule.image(datamodule.eval_split, evaluation.rows[index])
        for index in chosen(worst_first)
    }
    run.add_thumbnails("test", images)
