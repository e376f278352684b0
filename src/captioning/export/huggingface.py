"""A trained model as a folder that others load: with transformers alone, or with onnxruntime alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from captioning.errors import UserError, nearest
from captioning.export.card import Sample, write_card
from captioning.export.onnx import require_packages, write_onnx
from captioning.inference.pretrained import find_model, load_pretrained
from captioning.runs.run_folder import write_model
from captioning.terminal import quiet_transformers

TRANSFORMERS, ONNX = "transformers", "onnx"


def export(
    run: str, folder: Path, *, name: str | None = None, form: str = TRANSFORMERS, int8: bool = False, **card: Any
) -> list[Sample]:
    """Write a Hugging Face folder: weights in safetensors, processor, decoding and a model card; no pickle.

    ``AutoProcessor`` and ``AutoModelForCausalLM`` load it, and ``generate`` then captions as the run was tested.

    ``run`` is what :func:`captioning.inference.pretrained.find_model` takes, ``folder`` a new one, which is there once
    it is whole, and ``name`` the model's in its card, by default the folder's. ``form`` is ``transformers`` or
    ``onnx``, that with ``int8`` in 8 bits: see :mod:`captioning.export.onnx`. The rest is ``samples``, ``license`` and
    ``data_license`` of :func:`captioning.export.card.write_card`.

    Returns the test images that the card shows. Raises UserError.
    """
    if form not in (TRANSFORMERS, ONNX):
        raise UserError(f"--format {form}: no such format{nearest(form, [TRANSFORMERS, ONNX])}")
    if int8 and form != ONNX:
        raise UserError("--int8 goes with --format onnx: transformers quantizes a model itself as it loads it")
    if form == ONNX:
        require_packages()
    source = find_model(run)  # before what is slow
    quiet_transformers()
    with new_folder(folder) as part:
        network, processor, decoding = load_pretrained(run)
        own = network.generation_config
        start = own.bos_token_id if own.bos_token_id is not None else network.config.bos_token_id
        network.generation_config = GenerationConfig(
            bos_token_id=start, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id, **decoding.arguments()
        )
        if form == ONNX:
            write_onnx(part, network=network, processor=processor, decoding=decoding, int8=int8)
        else:
            write_model(part, network=network, processor=processor)
        name, form = name or folder.resolve().name, f"{form} int8" if int8 else form
        return write_card(part, source, network=network, decoding=decoding, name=name, form=form, **card)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Where to write what shall be in a folder once it is whole. Raises UserError if something is in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: something is in it; name a new folder")
    part = folder.resolve().with_name(f".{folder.resolve().name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        if folder.is_dir():
            folder.rmdir()
        part.rename(folder.resolve())
    finally:
        shutil.rmtree(part, ignore_errors=True)
