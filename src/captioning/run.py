"""From a composed configuration to a finished run folder."""

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
import transformers
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.filesize import decimal

from captioning import record
from captioning.callbacks.throughput import Throughput
from captioning.callbacks.validate_every import ValidateEvery
from captioning.callbacks.wandb import wandb_loggers
from captioning.config import Config, schema_of
from captioning.datamodule import CaptionDataModule
from captioning.errors import UserError, nearest
from captioning.mistakes import answered_in_one_line, environment_of_a_job
from captioning.module import CaptionModule
from captioning.terminal import tolerate_any_terminal

C = TypeVar("C", bound=L.Callback)
_say = rank_zero_only(logging.getLogger(__name__).info)


def run(cfg: Config) -> float | None:
    """Train once, or, in a sweep, train this job in a process of its own. Returns the best monitored score."""
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        metrics = _train_in_own_process(cfg)
    else:
        with answered_in_one_line():
            metrics = train(cfg)
    return metrics.get(cfg.monitor)


def train(cfg: Config) -> dict[str, Any]:
    """Train, test with the best checkpoint, and leave the run folder ``cfg.output_dir``. Returns the final numbers."""
    talk()
    # What can be wrong is found before what is slow, and before Lightning starts further processes.
    settings = resolve(cfg)
    datamodule = CaptionDataModule(**settings["data"])
    module = CaptionModule(**settings["model"])
    trainer = make_trainer(cfg, settings)
    folder = Path(cfg.output_dir)
    if trainer.is_global_zero:
        _require_no_weights(folder)
    datamodule.setup()
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    module.load(datamodule.processor)

    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, trainer, module)
        record.begin(folder, trainer, datamodule)
    for logger in trainer.loggers:
        logger.log_hyperparams(settings)
    for tracker in wandb_loggers(trainer):
        tracker.define_summary()
    _fit(trainer, module, datamodule, folder)
    best = _best_checkpoint(trainer)
    trainer.test(module, datamodule, ckpt_path=best, verbose=False)
    metrics = final_metrics(trainer, module, best)
    if trainer.is_global_zero:
        record.finish(folder, trainer, datamodule, module, metrics, model_folder=folder / "model")
    trainer.strategy.barrier()
    return metrics


def _fit(trainer: L.Trainer, module: CaptionModule, datamodule: CaptionDataModule, folder: Path) -> None:
    try:
        trainer.fit(module, datamodule)
    except UserError as error:
        if trainer.global_rank:  # of what all processes find the first speaks; this may be one's own, as of its shards
            print(f"error (process {trainer.global_rank}): {error}", file=sys.stderr)
        raise
    except SystemExit:  # what Lightning makes of Ctrl-C
        _say(f"stopped at step {trainer.global_step}; look at what there is with `captioning report {folder}`")
        raise
    stopping = _callback(trainer, EarlyStopping)
    if stopping and stopping.stopping_reason_message:
        _say(f"stopped early at step {trainer.global_step}: {' '.join(stopping.stopping_reason_message.split())}")


def talk() -> None:
    """Send our messages to standard error, and of the libraries' only the warnings that can be acted on."""
    tolerate_any_terminal()
    log = logging.getLogger("captioning")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(
            logging.INFO if getattr(rank_zero_only, "rank", 0) == 0 else logging.ERROR
        )  # one says what all find
        log.propagate = False  # Hydra's handler would say it again
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it can't read is said by whoever asked for it
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # it isn't imported yet
    warnings.filterwarnings("ignore", module=r"PIL\.")  # without the picture's name; the check has one
    for message in (
        ".*`IterableDataset` has `__len__` defined.*",  # an epoch of a stream is as long as data.stream_epoch says
        ".*does not have many workers.*",  # data.num_workers is chosen, or set by the user
        ".*Using `DistributedSampler` with the dataloaders.*",  # VisitSampler counts each picture once
        ".*exists and is not empty.*",  # the run folder holds what was written when the run began
        ".*number of training batches .* is smaller than the logging interval.*",  # every optimizer step is kept
        ".*LeafSpec.*is deprecated.*",  # Lightning's own use of torch
        ".*when logging on epoch level in distributed setting.*",  # every process has the numbers of all captions
    ):
        warnings.filterwarnings("ignore", message)


def resolve(cfg: Config) -> dict[str, Any]:
    """The configuration as plain Python, refused where a key is none of the classes' arguments (``+model.foo=1``)."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    top = [field.name for field in fields(Config)]
    for name in settings:
        if name not in top:
            raise UserError(f"{name}: no such setting{nearest(name, top)}")
    for section, target in (("model", CaptionModule), ("data", CaptionDataModule), ("trainer", L.Trainer)):
        known = list(vars(schema_of(target)))
        for name in settings[section]:
            if name not in known:
                raise UserError(f"{section}.{name}: no such setting{nearest(name, known)}")
    return settings


def make_trainer(cfg: Config, settings: dict[str, Any]) -> L.Trainer:
    """Lightning's Trainer with the configured loggers and callbacks, and a precision that suits the device."""
    arguments = dict(settings["trainer"])
    arguments["precision"] = arguments["precision"] or default_precision(arguments["accelerator"])
    if arguments["limit_test_batches"] == 0:
        raise UserError("trainer.limit_test_batches=0: every run ends in a test; 1 is the least")
    if arguments["logger"] in (None, True):
        arguments["logger"] = [_instantiate(node) for node in cfg.logger.values() if node is not None]
    callbacks = [_instantiate(node) for node in cfg.callbacks.values() if node is not None]
    callbacks.append(ValidateEvery(cfg.val_every_n_steps))
    try:
        return L.Trainer(**{**arguments, "callbacks": callbacks})
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def _instantiate(node: DictConfig) -> Any:
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise


def default_precision(accelerator: str) -> str:
    """bf16 where the device is fast at it, fp16 on older GPUs, 32 bits elsewhere."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"
    if accelerator == "cpu" or not torch.accelerator.is_available():
        instructions = torch.cpu.get_capabilities()
        return "bf16-mixed" if instructions.get("avx512_bf16") or instructions.get("amx_bf16") else "32-true"
    return "32-true"


def _best_checkpoint(trainer: L.Trainer) -> str | None:
    """The checkpoint with the best monitored score; None (the weights as they are) where none was kept."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    return next((c.best_model_path for c in callbacks if c.monitor and c.best_model_path), None)


def final_metrics(trainer: L.Trainer, module: CaptionModule, best: str | None) -> dict[str, Any]:
    """The test numbers with their intervals, the validation numbers of the checkpoint tested, and the throughput."""
    metrics = module.evaluations["test"].metrics("test")
    if best:
        checkpoint = torch.load(best, weights_only=True, mmap=True)
        metrics |= checkpoint["metrics"] | {"tested_step": checkpoint["global_step"]}
    elif validation := module.evaluations.get("val"):
        metrics |= {f"val/{name}": value for name, value in validation.numbers.items()}
    throughput = _callback(trainer, Throughput)
    return metrics | (throughput.rates() if throughput else {})


def _callback(trainer: L.Trainer, kind: type[C]) -> C | None:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def _require_no_weights(folder: Path) -> None:
    if any((folder / name).exists() for name in ("checkpoints", "model")):
        raise UserError(
            f"hydra.run.dir={folder} holds the weights of an earlier run, which are left as they are (but Hydra has "
            "put this run's settings into its .hydra/ already); take another folder, or remove that one"
        )


def _check_space(folder: Path, trainer: L.Trainer, module: CaptionModule) -> None:
    """Refuse a disk that training would fill: a checkpoint holds weights and two moments of Adam, 12 bytes a weight."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    kept = sum(max(callback.save_top_k, 1) + bool(callback.save_last) for callback in callbacks)
    needed = (12 * kept + 4) * sum(parameter.numel() for parameter in module.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"hydra.run.dir={folder}: {decimal(free)} are free, and {kept} checkpoints and the model need "
            f"{decimal(needed)}; make room, or take another disk with hydra.run.dir=DIR"
        )


def _train_in_own_process(cfg: Config) -> dict[str, Any]:
    # Lightning starts ranks 1..N by running this process's command line again. In a sweep that line is the whole
    # sweep, and a sweeper that samples would hand every rank other values.
    hydra = HydraConfig.get()
    overrides = hydra.overrides.task
    run_dir = f'hydra.run.dir="{cfg.output_dir}"'
    command = [sys.executable, sys.argv[0], *overrides, run_dir, "hydra.mode=RUN"]
    group = {"WANDB_RUN_GROUP": os.environ.get("WANDB_RUN_GROUP", hydra.sweep.dir)}
    if subprocess.run(command, env=environment_of_a_job() | group, check=False).returncode:
        # Raised and not answered here: the sweep goes on with its other jobs, and ends with this line.
        raise UserError(f"a job of the sweep failed, as it says above: {cfg.output_dir}")
    metrics: dict[str, Any] = json.loads(Path(cfg.output_dir, "metrics.json").read_text())
    return metrics
