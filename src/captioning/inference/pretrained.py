"""Load a trained model from a run folder, a checkpoint of one, a Hugging Face folder, or the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from transformers import ProcessorMixin

from captioning.errors import UserError
from captioning.models.decoding import Decoding
from captioning.models.git import GitForCausalLM
from captioning.models.loading import load_model, model_from_config
from captioning.models.lora import Lora, merged
from captioning.models.processor import load_processor, processor_from_files
from captioning.runs.run_folder import RunFolder


class LoadedModel(NamedTuple):
    """A model with what it needs to caption images."""

    network: GitForCausalLM  # float32, on the CPU, with adapters merged
    processor: ProcessorMixin
    decoding: Decoding  # what it was trained with, or else what it is published with


def load_pretrained(source: str | Path) -> LoadedModel:
    """Load a model to caption with, from what :func:`find_model` takes.

    Lightning isn't needed, and no code that it may bring is run.

    Raises:
        UserError: there is no such model, or it can't be used.
    """
    found = find_model(source)
    if isinstance(found, Path) and found.suffix == ".ckpt":
        return _load_checkpoint(found)
    network = load_model(str(found))
    settings = RunFolder(Path(found).parent).config if Path(found).name == "model" else None
    saved = network.generation_config.to_dict()
    if not saved.get("do_sample"):
        saved |= {"temperature": None, "top_p": None}
    return LoadedModel(network, load_processor(str(found)), decoding_of((settings or {}).get("model") or saved))


def find_model(source: str | Path) -> Path | str:
    """The ``.ckpt`` or Hugging Face folder (of a run, the one in it) that a user means, or else a name on the Hub.

    Raises:
        UserError: it is none of these.
    """
    path = Path(source).expanduser()
    if path.suffix == ".ckpt":
        if not path.is_file():
            raise UserError(f"{source}: no such checkpoint")
        return path
    if (path / "model" / "config.json").is_file():
        return path / "model"
    if (path / ".hydra").is_dir():
        checkpoints = path / "checkpoints"
        if checkpoints.is_dir():
            raise UserError(
                f"{source}: this run has no model yet; give one of its checkpoints, {checkpoints}/NAME.ckpt"
            )
        raise UserError(f"{source}: this run holds no model; give the one that trained it, or its model")
    if path.exists():
        if (path / "config.json").is_file():
            return path
        raise UserError(f"{source}: holds no model; give a run folder, a .ckpt, a Hugging Face folder, or a Hub name")
    name = str(source)
    if isinstance(source, Path) or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise UserError(f"{source}: no such folder")
    return name


def decoding_of(settings: Mapping[str, Any]) -> Decoding:
    """The settings that are Decoding's; null or absent ones have their default."""
    known = {field.name: settings.get(field.name) for field in fields(Decoding)}
    return Decoding(**{name: value for name, value in known.items() if value is not None})


def _load_checkpoint(path: Path) -> LoadedModel:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        settings = content["hyper_parameters"]
        adapters = {field.name: f"lora_{field.name}" for field in fields(Lora)}
        lora = Lora(**{name: settings[key] for name, key in adapters.items() if key in settings})
        network = model_from_config(content["git_config"], content["generation_config"])
        prefix, weights = "model.", content["state_dict"].items()
        own = {name.removeprefix(prefix): weight for name, weight in weights if name.startswith(prefix)}
        network.load_state_dict(merged(own, lora))
        return LoadedModel(network, processor_from_files(content["processor_files"]), decoding_of(settings))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, UnpicklingError) as error:
        if isinstance(error, UserError):  # of its settings, such as a package that they need
            raise UserError(f"{path}: {error}") from error
        raise UserError(
            f"{path}: no checkpoint of this project ({str(error).strip().splitlines()[0][:100]})"
        ) from error
