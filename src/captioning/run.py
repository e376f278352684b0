"""From a composed configuration to a finished run folder: a training, or the test of a model that is there."""

import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from captioning.config.compose import absolute_paths, compose_settings, literal, merge_overrides, quoted
from captioning.config.messages import friendly_errors
from captioning.config.schema import Config, resolve
from captioning.errors import UserError
from captioning.export.push import push, require_ready
from captioning.inference.pretrained import find_model, load_pretrained
from captioning.models.decoding import Decoding
from captioning.runs.run_folder import RunFolder, write_model
from captioning.terminal import setup_logging
from captioning.training import artifacts
from captioning.training.callbacks.consistency import ConsistencyCheck
from captioning.training.callbacks.exact_resume import ExactResume
from captioning.training.callbacks.graceful_shutdown import GracefulShutdown
from captioning.training.callbacks.progress_bar import ProgressBar
from captioning.training.callbacks.validate_every import ValidateEvery
from captioning.training.checkpoints import CheckpointWriter
from captioning.training.datamodule import CaptionDataModule
from captioning.training.distributed.environment import dated_run_dir, is_rank_zero, stop_with_sweep
from captioning.training.distributed.launcher import explain_rank_failure
from captioning.training.distributed.strategies import trainer_arguments
from captioning.training.memory import keep_freed_memory
from captioning.training.module import CaptionModule
from captioning.training.resume import load_resume_point, require_same_data
from captioning.training.signals import INTERRUPTED, Interrupted, SignalHandler, handle_signals
from captioning.training.tuning import require_tunable, tune

_log = rank_zero_only(logging.getLogger(__name__).info)
_warn = rank_zero_only(logging.getLogger(__name__).warning)


def run(cfg: Config) -> float | None:
    """Train once; a job of a sweep is a process of its own. Returns the best monitored score."""
    with friendly_errors():
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            raise UserError("hydra/launcher: jobs of a sweep are started by hydra/launcher=local, joblib or slurm")
        stop_with_sweep()
        metrics = train(cfg)
    return metrics.get(cfg.monitor)


def train(cfg: Any) -> dict[str, Any]:
    """Train, test the best checkpoint, and leave the run folder ``cfg.output_dir``. Returns the final numbers.

    With ``cfg.resume`` a run is resumed; of one that is finished the numbers are returned. A run that a signal stops
    saves a checkpoint and exits with the status :data:`captioning.training.signals.INTERRUPTED`.
    """
    setup_logging(is_rank_zero=is_rank_zero())
    settings, run = resolve(cfg), RunFolder(cfg.output_dir)
    with run.lock() if is_rank_zero() else nullcontext(), _resumable(run) as signals:
        resume = load_resume_point(run, _to_save(cfg))
        if resume and not resume.changes and run.metrics is not None:
            return artifacts.report_finished(run)

        # What can be wrong is found before what is slow, and before Lightning starts further processes.
        data, module = CaptionDataModule(**settings.data), CaptionModule(**settings.model)
        trainer = make_trainer(settings, signals)
        require_tunable(settings, trainer)
        pushes = settings.hub["push"] and not settings.trainer["fast_dev_run"] and trainer.is_global_zero
        if pushes:  # asked before hours of training
            require_ready(settings.hub["name"], public=settings.hub["public"])
        artifacts.require_no_weights(run, resume)
        if resume:
            signals.step = resume.checkpoint.step
            data.processor = module.restore(resume.checkpoint.content)
        data.setup()
        L.seed_everything(settings.seed, workers=True, verbose=False)
        if settings.trainer["overfit_batches"]:
            data.overfit(trainer)
        module.load(data.processor)

        if resume:
            require_same_data(run, data)
        else:
            for key, value in tune(run, settings, trainer, module, data).items():
                OmegaConf.update(cfg, key, value)
            settings = resolve(cfg)
        if trainer.is_global_zero:
            artifacts.require_disk_space(run, trainer, module)
        if trainer.is_global_zero and resume:
            overrides = merge_overrides(run.overrides or (), _task_overrides())
            artifacts.write_resumed(run, trainer, resume, config=OmegaConf.to_yaml(_to_save(cfg)), overrides=overrides)
        elif trainer.is_global_zero:
            artifacts.write_initial(
                run, trainer, data, module, config=OmegaConf.to_yaml(_to_save(cfg)), overrides=_task_overrides()
            )
            if HydraConfig.initialized():
                run.write_text(".hydra/hydra.yaml", OmegaConf.to_yaml({"hydra": HydraConfig.get()}))
        for logger in trainer.loggers:
            logger.log_hyperparams(asdict(settings))
        trained, weights = module.count_weights()
        _log(f"training {trained:,} of {weights:,} weights ({trained / weights:.1%}) on {artifacts.devices(trainer)}")

        with explain_rank_failure(trainer, timeout_seconds=settings.collective_timeout_seconds):
            trainer.fit(module, data, ckpt_path=resume.checkpoint.path if resume else None)
            trainer.test(module, data, ckpt_path=artifacts.best_checkpoint(trainer), verbose=False)
            metrics = artifacts.write_final(run, trainer, data, module)
        if pushes:
            _push(run, settings.hub["name"], public=settings.hub["public"])
        return metrics


def _push(run: RunFolder, name: str, *, public: bool) -> None:
    """Upload the model of a finished run. The run has succeeded, whatever becomes of this."""
    _log(f"uploading the model to {name}")
    try:
        upload = push(str(run.path), name, public=public)
    except UserError as error:
        again = f"captioning push {run.path} {name}{' --public' * public}"
        _warn(f"the model isn't on the Hub: {error}; to try again: {again}")
    else:
        _log(f"the model is on the Hub, {upload.where}")


@contextmanager
def _resumable(run: RunFolder) -> Iterator[SignalHandler]:
    """Within, a signal ends the run with a line that says how to resume it, and the exit status INTERRUPTED."""
    with handle_signals() as signals:
        try:
            yield signals
        except Interrupted as interrupted:
            has_checkpoint = any(run.path.glob("checkpoints/*.ckpt"))
            way_on = f"python train.py resume={run.path}" if has_checkpoint else "start it again"
            step = f" at step {interrupted.step}" if interrupted.step else ""
            _log(f"stopped by {interrupted}{step}; to resume: {way_on}")
            sys.exit(INTERRUPTED)
        except KeyboardInterrupt:  # the second one
            sys.exit(1)


def _to_save(cfg: Any) -> dict[str, Any]:
    """The configuration with its interpolations, and with absolute paths: a run may be resumed from another folder."""
    content: Any = OmegaConf.to_container(cfg)
    content["data"] |= absolute_paths(content["data"])
    return content  # type: ignore[no-any-return]


def _task_overrides() -> list[str]:
    """What the command line gives."""
    return merge_overrides([], HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def make_trainer(settings: Config, signals: SignalHandler | None = None) -> L.Trainer:
    """Lightning's Trainer with the configured loggers and callbacks, and a precision that suits the device.

    Args:
        settings: resolved.
        signals: ends training when one is received.

    Raises:
        UserError: an argument that Lightning refuses, or that doesn't go with another.
    """
    torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")
    arguments = dict(settings.trainer)
    arguments["precision"] = arguments["precision"] or default_precision(arguments["accelerator"])
    if arguments["limit_test_batches"] == 0:
        raise UserError("trainer.limit_test_batches=0: every run ends in a test; 1 is the least")
    if arguments["logger"] in (None, True):
        arguments["logger"] = _instantiate(settings.logger)
    writer = CheckpointWriter()
    plugins = arguments["plugins"] or []
    arguments["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), writer]
    callbacks = [
        Timer(arguments.pop("max_time")),  # first, so that GracefulShutdown sees when time is over
        *_instantiate(settings.callbacks),
        ValidateEvery(settings.val_every_n_steps),
        ConsistencyCheck(asdict(settings)),
        *([ProgressBar()] if arguments["enable_progress_bar"] is not False else []),
        *([GracefulShutdown(signals, writer)] if signals else []),
        ExactResume(),  # last: it may validate at the start, and signals are listened for by then
    ]
    timeout = settings.collective_timeout_seconds
    arguments = trainer_arguments(arguments, callbacks=callbacks, timeout_seconds=timeout)
    try:
        trainer = L.Trainer(**{**arguments, "callbacks": callbacks})
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    return trainer


def _instantiate(nodes: dict[str, Any]) -> list[Any]:
    return [instantiate(node, _convert_="all") for node in nodes.values() if node is not None]


def default_precision(accelerator: str) -> str:
    """bf16 where the device is fast at it, fp16 on older GPUs, 32 bits elsewhere."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"
    if accelerator == "cpu" or not torch.accelerator.is_available():
        # torch.cpu.get_capabilities would be public, from torch 2.13 on; each CPU with AMX has the first as well.
        return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"
    return "32-true"


def evaluate(model: str, overrides: Sequence[str] = (), *, split: str = "test", folder: Path | None = None) -> Path:
    """Caption the images of a split, score the captions, and leave a run folder with metrics and report.

    Args:
        model: a run folder, a Lightning checkpoint, a Hugging Face folder, or a Hub name.
        overrides: settings as ``python train.py`` takes them. A run's own data and decoding are the default.
        split: ``test``, ``val``, ``train``, or ``all`` images of the data.
        folder: where the results go; by default ``outputs/DATE/TIME``.

    Returns:
        The folder.

    Raises:
        UserError: the model or the data can't be used.
    """
    setup_logging(is_rank_zero=is_rank_zero())
    run = RunFolder(folder or Path(dated_run_dir()))
    found = find_model(model)
    source = Path(model).expanduser()
    trained = RunFolder(source.absolute().parent.parent if source.suffix == ".ckpt" else source)
    with tempfile.TemporaryDirectory() as temporary:
        if str(found).endswith(".ckpt"):
            loaded, found = load_pretrained(found), Path(temporary, "model")
            write_model(found, network=loaded.network, processor=loaded.processor)
        own = ["model.architecture=null", *_settings_of(trained, overrides), f"model.checkpoint={literal(str(found))}"]
        cfg = compose_settings(overrides, command="evaluate", folder=run.path, defaults=own)
        settings = resolve(cfg)
        given = [override.lstrip("+") for override in overrides]
        if "pipe:" in str(settings.data["path"]) and not any(
            text.startswith(("data=", "data.path=")) for text in given
        ):
            raise UserError(f"{model}: its data.path runs a command; give the data yourself: data=local data.path=PATH")
        data, module = CaptionDataModule(**settings.data), CaptionModule(**settings.model)
        data.set_eval_split(split)
        trainer = make_trainer(settings)
        data.setup()
        L.seed_everything(settings.seed, workers=True, verbose=False)
        module.load(data.processor)
        module.training_captions = _training_captions(trained, data)
        if trainer.is_global_zero:
            if (run.path / ".hydra").exists():
                raise UserError(f"--output-dir {folder}: holds a run; take another folder")
            listed = [f"model.checkpoint={model}", *overrides]
            artifacts.write_initial(
                run, trainer, data, module, config=OmegaConf.to_yaml(_to_save(cfg)), overrides=listed
            )
        trainer.test(module, data, verbose=False)
        artifacts.write_final(run, trainer, data, module, save_model=False)
    return run.path


def _settings_of(trained: RunFolder, overrides: Sequence[str]) -> list[str]:
    """Data and decoding as the run had them, as overrides that the user's win over."""
    has_data = any(override.startswith("data=") for override in overrides)
    if trained.config is None:
        if not has_data:
            raise UserError("data= is missing: which images to evaluate on, as in data=local data.path=PATH")
        return []
    model, data = trained.config.get("model"), trained.config.get("data")
    if not isinstance(model, dict) or not isinstance(data, dict):
        raise UserError(
            f"{trained.path}/.hydra/config.yaml: has no model and data; name the model folder itself, "
            f"{trained.path}/model, and data=…"
        )
    decoding = {field.name for field in fields(Decoding)}
    kept = {f"model.{name}": value for name, value in model.items() if name in decoding}
    if not has_data:  # but what is taken from the model, and the seed, which is this command's
        kept |= {
            f"data.{name}": value for name, value in data.items() if name not in ("processor", "image_size", "seed")
        }
    texts = [f"{key}={quoted(value) if isinstance(value, str) else json.dumps(value)}" for key, value in kept.items()]
    return [*([] if has_data else ["data=local"]), *texts]


def _training_captions(trained: RunFolder, data: CaptionDataModule) -> frozenset[str] | None:
    """The captions that the model was trained on, if it was on these data; warns of images that are evaluated too."""
    ids = set((trained.splits or {}).get("train", []))
    evaluated = data.split_ids[data.eval_split]
    is_same = bool(ids) and (trained.environment or {}).get("data_fingerprint") == data.fingerprint
    if seen := sum(name in ids for name in evaluated):
        whose = "are among those" if is_same else "have the ids of images"
        _warn(f"{seen} of the {len(evaluated)} images evaluated {whose} that the model was trained on")
    return data.normalized_captions(ids) if is_same else None
