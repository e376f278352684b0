"""From a composed configuration to a finished run folder."""

import logging
import os
import shutil
import signal
import sys
import warnings
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.filesize import decimal

from captioning.config.messages import friendly_errors
from captioning.config.schema import Config, schema_of
from captioning.errors import UserError, nearest
from captioning.runs import run_folder
from captioning.sweeps.jobs import end_with_sweep
from captioning.terminal import quiet_transformers, tolerate_any_terminal
from captioning.training import artifacts as record
from captioning.training.callbacks import callbacks_of_type
from captioning.training.callbacks.consistency import ConsistencyCheck
from captioning.training.callbacks.exact_resume import ExactResume
from captioning.training.callbacks.graceful_shutdown import GracefulShutdown
from captioning.training.callbacks.progress_bar import ProgressBar
from captioning.training.callbacks.push_to_hub import PushToHub
from captioning.training.callbacks.throughput import Throughput
from captioning.training.callbacks.validate_every import ValidateEvery
from captioning.training.callbacks.wandb_logger import wandb_loggers
from captioning.training.callbacks.weight_averaging import ExponentialMovingAverage
from captioning.training.checkpoints import CheckpointWriter, writer_of
from captioning.training.datamodule import CaptionDataModule
from captioning.training.distributed.environment import rank
from captioning.training.distributed.launcher import explain_rank_failure
from captioning.training.distributed.strategies import trainer_arguments, whole_network
from captioning.training.memory import keep_freed_memory
from captioning.training.module import CaptionModule, NotFiniteError
from captioning.training.resume import ResumePoint, load_resume_point, require_same_data
from captioning.training.signals import INTERRUPTED, Interrupted, SignalHandler, handle_signals
from captioning.training.tuning import require_one_process, tune

C = TypeVar("C", bound=L.Callback)
_say = rank_zero_only(logging.getLogger(__name__).info)


def run(cfg: Config) -> float | None:
    """Train once. Returns the best monitored score."""
    with friendly_errors():
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise UserError("hydra/launcher: jobs of a sweep are started by hydra/launcher=local, joblib or slurm")
        end_with_sweep()
        metrics = train(cfg)
    return metrics.get(cfg.monitor)


def train(cfg: Config) -> dict[str, Any]:
    """Train, test with the best checkpoint, and leave the run folder ``cfg.output_dir``. Returns the final numbers.

    With ``cfg.resume`` a run goes on; one that has ended already gives its numbers again. One that is told to stop by a
    signal saves where it is, and exits with the status :data:`captioning.training.signals.INTERRUPTED`.
    """
    setup_logging()
    folder = Path(cfg.output_dir)
    with handle_signals() as interruption, nullcontext() if rank() else run_folder.locked(folder):
        try:
            return _train_or_tell(cfg, interruption)
        except Interrupted as interrupted:
            way_on = f"python train.py resume={folder}" if list(folder.glob("checkpoints/*.ckpt")) else "start it again"
            _say(f"stopped by {interrupted} at step {interrupted.step}; to go on: {way_on}")
            sys.exit(INTERRUPTED)
        except KeyboardInterrupt:  # the second one
            sys.exit(1)


def _train_or_tell(cfg: Config, interruption: SignalHandler) -> dict[str, Any]:
    cfg, active_sequences = load_resume_point(cfg)
    if active_sequences and active_sequences.is_finished:
        return record.tell_again(active_sequences.folder)
    # What can be wrong is found before what is slow, and before Lightning starts further processes.
    settings = resolve(cfg)
    datamodule = CaptionDataModule(**settings["data"])
    module = CaptionModule(**settings["model"])
    trainer = make_trainer(cfg, settings, interruption)
    require_one_process(settings, trainer)
    if (hub := _callback(trainer, PushToHub)) and trainer.is_global_zero:
        hub.require_ready()
    try:
        return _train(cfg, settings, trainer, module, datamodule, active_sequences)
    except Interrupted as interrupted:
        interrupted.step = trainer.global_step or (active_sequences.found.step if active_sequences else 0)
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)  # processes that it started, if they haven't heard
        if error := writer_of(trainer).error:
            raise error from interrupted
        raise


def _train(
    cfg: Config,
    settings: dict[str, Any],
    trainer: L.Trainer,
    module: CaptionModule,
    datamodule: CaptionDataModule,
    active_sequences: ResumePoint | None,
) -> dict[str, Any]:
    folder = Path(cfg.output_dir)
    if active_sequences:
        module.restore(active_sequences.found.content)
        datamodule.set_processor(module.processor)
    elif trainer.is_global_zero:
        _require_no_weights(folder)
    datamodule.setup()
    if settings["trainer"]["overfit_batches"]:
        datamodule.overfit(trainer)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    if active_sequences:
        require_same_data(folder, datamodule)
    module.load(datamodule.processor)
    curve = None
    if not active_sequences:
        cfg, settings, curve = tune(cfg, settings, trainer, module, datamodule)

    if trainer.is_global_zero:
        _check_space(folder, trainer, module)
        if active_sequences:
            record.go_on(trainer, cfg, active_sequences)
        else:
            record.begin(folder, trainer, datamodule, cfg)
        if curve:
            curve.write(folder)
        _say_what_is_trained(module)
    for logger in trainer.loggers:
        logger.log_hyperparams(settings)
    for tracker in wandb_loggers(trainer):
        tracker.begin()
    with explain_rank_failure(trainer, timeout_seconds=cfg.collective_timeout_seconds):
        _fit(trainer, module, datamodule, folder, ckpt_path=active_sequences.found.path if active_sequences else None)
        best = _best_checkpoint(trainer)
        trainer.test(module, datamodule, ckpt_path=best, verbose=False)
        metrics = final_metrics(trainer, module, best)
        network = whole_network(module)
        if trainer.is_global_zero:
            record.finish(folder, trainer, datamodule, module, metrics, network=network, model_folder=folder / "model")
            if hub := _callback(trainer, PushToHub):
                hub.finish(folder)
        trainer.strategy.barrier()
    return metrics


def _fit(
    trainer: L.Trainer, module: CaptionModule, datamodule: CaptionDataModule, folder: Path, *, ckpt_path: Path | None
) -> None:
    try:
        trainer.fit(module, datamodule, ckpt_path=ckpt_path)
    except NotFiniteError as error:
        if not trainer.is_global_zero:  # one says what all find
            raise SystemExit(1) from error
        file = folder / "not_finite.json"
        run_folder.write_json(file, error.record)
        raise UserError(f"{error}. The images with their captions are in {file}") from error
    except SystemExit:  # what Lightning makes of a second Ctrl-C
        _say(f"stopped at step {trainer.global_step}; look at what there is with `captioning report {folder}`")
        raise
    writer = writer_of(trainer)
    writer.wait()
    if trainer.strategy.reduce_boolean_decision(writer.error is not None, all=False):
        raise writer.error or SystemExit(1)  # of the process that can't write, which says why
    timer = _callback(trainer, Timer)
    if timer and (timer.time_remaining() or 1) < 0:
        _say(
            f"trainer.max_time is over at step {trainer.global_step}; to go on: python train.py resume={folder} "
            "trainer.max_time=…"
        )
    stopping = _callback(trainer, EarlyStopping)
    if stopping and stopping.stopping_reason_message:
        _say(f"stopped early at step {trainer.global_step}: {' '.join(stopping.stopping_reason_message.split())}")


def setup_logging() -> None:
    """Send our messages to standard error, and of the libraries' only the warnings that can be acted on."""
    tolerate_any_terminal()
    log = logging.getLogger("captioning")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(
            logging.INFO if getattr(rank_zero_only, "rank", 0) == 0 else logging.ERROR
        )  # one says what all find
        log.propagate = False  # Hydra's handler would say it again
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    quiet_transformers()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it can't read is said by whoever asked for it
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # it isn't imported yet
    warnings.filterwarnings("ignore", module=r"PIL\.")  # without the image's name; the check has one
    for message in (
        ".*`IterableDataset` has `__len__` defined.*",  # an epoch of a stream is as long as data.stream_epoch says
        ".*does not have many workers.*",  # data.num_workers is chosen, or set by the user
        ".*Using `DistributedSampler` with the dataloaders.*",  # ResumableDistributedSampler counts each image once
        r".*module\(s\) in eval mode at the start of training.*",  # a vision tower that is frozen
        ".*your dataloader is not resumable.*",  # CaptionDataModule resumes it
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


def make_trainer(cfg: Config, settings: dict[str, Any], interruption: SignalHandler | None = None) -> L.Trainer:
    """Lightning's Trainer with the configured loggers and callbacks, and a precision that suits the device.

    Args:
        cfg: the configuration, for what is to be instantiated.
        settings: the same as plain Python.
        interruption: listens for signals that training is to end for.
    """
    torch.set_float32_matmul_precision("high" if cfg.tf32 else "highest")
    arguments = dict(settings["trainer"])
    arguments["precision"] = arguments["precision"] or default_precision(arguments["accelerator"])
    if arguments["limit_test_batches"] == 0:
        raise UserError("trainer.limit_test_batches=0: every run ends in a test; 1 is the least")
    if arguments["logger"] in (None, True):
        arguments["logger"] = [_instantiate(node) for node in cfg.logger.values() if node is not None]
    callbacks = [_instantiate(node) for node in cfg.callbacks.values() if node is not None]
    writer = CheckpointWriter()
    plugins = arguments["plugins"] or []
    arguments["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), writer]
    callbacks += [ValidateEvery(cfg.val_every_n_steps), ConsistencyCheck(settings)]
    if arguments["enable_progress_bar"] is not False:
        callbacks.append(ProgressBar())
    if cfg.hub.push and not arguments["fast_dev_run"]:
        callbacks.append(PushToHub(**settings["hub"]))
    if interruption:
        callbacks.append(GracefulShutdown(interruption, writer))
    callbacks.append(ExactResume())  # which may validate at the start: signals are listened for by then
    timeout = cfg.collective_timeout_seconds
    arguments = trainer_arguments(arguments, callbacks=callbacks, timeout_seconds=timeout)
    try:
        # First, so that GracefulShutdown sees when time is over. Always, so that a limit that is set later is of all.
        callbacks.insert(0, Timer(arguments.pop("max_time")))
        trainer = L.Trainer(**{**arguments, "callbacks": callbacks})
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    return trainer


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
    else:
        metrics |= module.restored_metrics
    throughput = _callback(trainer, Throughput)
    return metrics | (throughput.rates() if throughput else {})


def _callback(trainer: L.Trainer, kind: type[C]) -> C | None:
    return next(iter(callbacks_of_type(trainer, kind)), None)


def _require_no_weights(folder: Path) -> None:
    if list(folder.glob("checkpoints/*.ckpt")) or (folder / "model").exists():
        raise UserError(
            f"hydra.run.dir={folder} holds the weights of an earlier run, which are left as they are; go on with it by "
            f"resume={folder}, take another folder, or remove that one"
        )


def _count_weights(module: CaptionModule) -> tuple[int, int]:
    """Those that are trained, and all."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def _say_what_is_trained(module: CaptionModule) -> None:
    trained, weights = _count_weights(module)
    if trained < weights:
        _say(f"training {trained:,} of {weights:,} weights ({trained / weights:.1%}); the others stay as they are")


def _check_space(folder: Path, trainer: L.Trainer, module: CaptionModule) -> None:
    """Refuse a disk that training would fill: a checkpoint holds weights, and two moments of Adam of those trained."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    # The newest, the one before it, and the one that is being written, beside the best.
    kept = 3 + sum(max(callback.save_top_k, 1) + bool(callback.save_last) for callback in callbacks)
    copies = 2 if _callback(trainer, ExponentialMovingAverage) else 1  # with the average and the raw weights
    trained, weights = _count_weights(module)
    needed = 4 * (kept * (copies * weights + 2 * trained) + weights)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"hydra.run.dir={folder}: {decimal(free)} are free, and {kept} checkpoints and the model need "
            f"{decimal(needed)}; make room, or take another disk with hydra.run.dir=DIR"
        )
