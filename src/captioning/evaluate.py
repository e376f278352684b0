"""Any model on any data: the same numbers and the same report as a run's own test, from the same code."""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from captioning.config.compose import absolute_paths, compose_settings, literal, quoted, start_of
from captioning.errors import UserError
from captioning.inference.pretrained import find_model, load_pretrained
from captioning.models.generation import Decoding
from captioning.run import make_trainer, resolve, setup_logging
from captioning.runs.run_folder import RunFolder, write_model
from captioning.training import artifacts as record
from captioning.training.datamodule import CaptionDataModule
from captioning.training.module import CaptionModule

_warn = rank_zero_only(logging.getLogger(__name__).warning)


def evaluate(model: str, overrides: Sequence[str] = (), *, split: str = "test", folder: Path | None = None) -> Path:
    """Caption the images of a split, judge the captions, and leave a run folder with numbers and report.

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
    setup_logging()
    folder = folder or Path("outputs", datetime.now().strftime("%Y-%m-%d/%H-%M-%S"))
    with _checkpoint_folder(model) as checkpoint:
        run = _run_of(Path(model).expanduser())
        own = ["model.architecture=null", *_defaults(run, overrides), f"model.checkpoint={literal(checkpoint)}"]
        cfg = compose_settings(overrides, command="evaluate", folder=folder, defaults=own)
        settings = resolve(cfg)
        if run and "pipe:" in str(settings["data"]["path"]) and not _gives_data(overrides):
            raise UserError(f"{run}: its data.path runs a command; give the data yourself: data=local data.path=PATH")
        datamodule = CaptionDataModule(**settings["data"])
        datamodule.set_eval_split(split)
        module = CaptionModule(**settings["model"])
        trainer = make_trainer(cfg, settings)
        datamodule.setup()
        module.load(datamodule.processor)
        module.training_captions = _training_captions(run, datamodule) if run else None
        L.seed_everything(cfg.seed, workers=True, verbose=False)
        if trainer.is_global_zero:
            _require_new(folder)
            record.begin(folder, trainer, datamodule, cfg, [f"model.checkpoint={model}", *overrides])
        trainer.test(module, datamodule, verbose=False)
        if trainer.is_global_zero:
            metrics = module.evaluations["test"].metrics("test")
            record.finish(folder, trainer, datamodule, module, metrics, model_folder=None)
    return folder


@contextmanager
def _checkpoint_folder(model: str) -> Iterator[str]:
    """What ``model.checkpoint`` takes, for whatever the user has."""
    found = find_model(model)
    if not str(found).endswith(".ckpt"):
        yield str(found)
        return
    with tempfile.TemporaryDirectory() as temporary:
        trained, folder = load_pretrained(found), Path(temporary, "model")
        write_model(folder, network=trained.network, processor=trained.processor)
        yield str(folder)


def _run_of(path: Path) -> Path | None:
    """The run folder that a model is or that a checkpoint is in."""
    folder = path.absolute().parent.parent if path.suffix == ".ckpt" else path
    return folder if (folder / ".hydra" / "config.yaml").is_file() else None


def _defaults(run: Path | None, overrides: Sequence[str]) -> list[str]:
    """Data and decoding as the run had them, as far as nothing else is asked for."""
    has_data = any(override.startswith("data=") for override in overrides)
    if run is None:
        if not has_data:
            raise UserError("data= is missing: which images to evaluate on, as in data=local data.path=PATH")
        return []
    path = run / ".hydra" / "config.yaml"
    settings = RunFolder(run).config or {}
    if not all(isinstance(settings.get(section), dict) for section in ("model", "data")):
        raise UserError(f"{path}: has no model and data; name the model folder itself, {run}/model, and data=…")
    decoding = {field.name for field in fields(Decoding)}
    kept = _as_overrides("model", {name: value for name, value in settings["model"].items() if name in decoding})
    if not has_data:
        kept += [
            "data=local",
            *_as_overrides("data", {**settings["data"], **absolute_paths(start_of(run), settings["data"])}),
        ]
    return kept


def _gives_data(overrides: Sequence[str]) -> bool:
    return any(override.lstrip("+").startswith(("data=", "data.path=")) for override in overrides)


def _as_overrides(section: str, settings: Mapping[str, Any]) -> list[str]:
    """Settings as the command line would give them; what is taken from the model and the seed is left to this one's."""
    return [
        f"{section}.{name}={quoted(value) if isinstance(value, str) else json.dumps(value)}"
        for name, value in settings.items()
        if name not in ("processor", "image_size", "seed")
    ]


def _training_captions(run: Path, datamodule: CaptionDataModule) -> frozenset[str] | None:
    """What the model was trained on, if that is in these data; a word of those images that are evaluated too."""
    folder = RunFolder(run)
    trained = set((folder.splits or {}).get("train", []))
    evaluated = datamodule.split_ids[datamodule.eval_split]
    seen = sum(name in trained for name in evaluated)
    is_same = bool(trained) and (folder.environment or {}).get("data_fingerprint") == datamodule.fingerprint
    if seen:
        whose = "are among those" if is_same else "have the ids of images"
        _warn(f"{seen} of the {len(evaluated)} images evaluated {whose} that the model was trained on")
    if not is_same:
        return None
    return datamodule.normalized_captions(trained)


def _require_new(folder: Path) -> None:
    if (folder / ".hydra").exists():
        raise UserError(f"--output-dir {folder}: holds a run; take another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output-dir {folder}: {error.strerror}") from error
