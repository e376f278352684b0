"""Load a trained model from a run folder, a checkpoint of one, a Hugging Face folder, or the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch

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
    processor: Any
    decoding: Decoding  # what it was trained with, or else what it is published with


def load_pretrained(source: str | Path) -> LoadedModel:
    """Load a model to caption with. Lightning isn't needed, and no code that it may bring is run.

    Args:
        source: a run folder, a ``.ckpt`` of one, a Hugging Face folder, or a Hub name.

    Raises:
        UserError: there is no such model, or it can't be used.
    """
    found = find_model(source)
    if isinstance(found, Path) and found.suffix == ".ckpt":
        return _from_checkpoint(found)
    network = load_model(str(found))
    settings = RunFolder(Path(found).parent).config if Path(found).name == "model" else None
    saved = network.generation_config.to_dict()
    if not saved.get("do_sample"):
        saved |= {"temperature": None, "top_p": None}
    return LoadedModel(network, load_processor(str(found)), decoding_of((settings or {}).get("model") or saved))


def find_model(source: str | Path) -> Path | str:
    """The ``.ckpt`` or Hugging Face folder that a user means, or what can only be a name on the Hub.

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
    if (path / ".hydra").is_dir() and not (path / "checkpoints").is_dir():
        raise UserError(f"{source}: this run holds no model; give the one that trained it, or its model")
    if (path / ".hydra").is_dir():
        raise UserError(
            f"{source}: this run has no model yet; give one of its checkpoints, {source}/checkpoints/NAME.ckpt"
        )
    if path.exists() and not (path / "config.json").is_file():
        raise UserError(f"{source}: holds no model; give a run folder, a .ckpt, a Hugging Face folder, or a Hub name")
    name = str(source)
    if not path.exists() and (isinstance(source, Path) or name.startswith(("/", ".", "~")) or name.count("/") > 1):
        raise UserError(f"{source}: no such folder")
    return path if path.exists() else name


def decoding_of(settings: Mapping[str, Any]) -> Decoding:
    """Those of some settings that are Decoding's; one that is null or absent is as by default."""
    known = {field.name: settings.get(field.name) for field in fields(Decoding)}
    return Decoding(**{name: value for name, value in known.items() if value is not None})


def _from_checkpoint(path: Path) -> LoadedModel:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        settings = content["hyper_parameters"]
        adapters = {field.name: f"lora_{field.name}" for field in fields(Lora)}
        lora = Lora(**{name: settings[key] for name, key in adapters.items() if key in settings})
        network = model_from_config(content["git_config"], content["generation_config"])
        weights = {
            name.removeprefix("model."): weight
            for name, weight in content["state_dict"].items()
            if name.startswith("model.")
        }
        network.load_state_dict(merged(weights, lora))
        return LoadedModel(network, processor_from_files(content["processor_files"]), decoding_of(settings))
    except UserError as error:  # of its settings, such as a package that they need
        raise UserError(f"{path}: {error}") from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, UnpicklingError) as error:
        why = str(error).strip().splitlines()[0][:100]
        raise UserError(f"{path}: no checkpoint of this project ({why})") from error
