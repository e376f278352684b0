"""GIT in ONNX: an encoder that reads images, and a decoder that goes on with captions by their keys and values."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import ProcessorMixin

from captioning.errors import UserError
from captioning.files import write_json
from captioning.models.decoding import Decoding
from captioning.models.git import GitForCausalLM, KeysValues, KVCache

ENCODER, DECODER, PROGRAM, SETTINGS = "encoder.onnx", "decoder.onnx", "caption.py", "captioning.json"


class ImageEncoder(nn.Module):
    """From normalized images (images, 3, height, width) to keys, values (layers, images, heads, positions, width)."""

    def __init__(self, network: GitForCausalLM) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return _stacked(self.network.encode(self.network.encode_image(pixel_values)).images)


class CaptionDecoder(nn.Module):
    """The next token of captions, and the keys and values of all tokens so far.

    Takes new tokens (captions, tokens), what the encoder made of their images, and the keys and values of the tokens
    before, (layers, captions, heads, tokens, width); returns logits (captions, vocabulary) and longer keys and values.
    """

    def __init__(self, network: GitForCausalLM) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, image_keys: Tensor, image_values: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        cache = KVCache()
        cache.images = [KeysValues(*layer) for layer in zip(image_keys, image_values, strict=True)]
        for number, layer in enumerate(zip(past_keys, past_values, strict=True)):
            cache.update(*layer, number)
        hidden = self.network.decode_step(input_ids, cache)
        after = [KeysValues(layer.keys, layer.values) for layer in cache.layers]
        return self.network.output(hidden[:, -1]), *_stacked(after)


def _stacked(layers: list[KeysValues]) -> tuple[Tensor, Tensor]:
    return torch.stack([keys for keys, _ in layers]), torch.stack([values for _, values in layers])


def require_packages() -> None:
    """Raises UserError where the extra isn't installed."""
    if any(find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")):
        raise UserError("--format onnx needs onnx and onnxruntime, which isn't installed: pip install -e '.[onnx]'")


def write_onnx(
    folder: Path, *, network: GitForCausalLM, processor: ProcessorMixin, decoding: Decoding, int8: bool
) -> None:
    """Write a model as ONNX, with what captions by it: a program that needs onnxruntime, tokenizers, Pillow and NumPy.

    Of ``decoding`` it has the longest and shortest caption; it is greedy. ``int8`` keeps the matrices' weights in 8
    bits (onnxruntime's dynamic quantization), a quarter of the size.
    """
    network = network.eval()
    crop = processor.image_processor.crop_size
    images = torch.zeros(2, 3, crop["height"], crop["width"], dtype=network.dtype)
    with torch.no_grad():
        keys, values = ImageEncoder(network)(images)
    past = keys.new_zeros(*keys.shape[:3], 3, keys.shape[-1])
    _export(ImageEncoder(network), folder / ENCODER, {"pixel_values": (images, {0: "images"})}, ("keys", "values"))
    inputs: dict[str, tuple[Tensor, dict[int, str]]] = {
        "input_ids": (torch.ones(2, 2, dtype=torch.long), {0: "captions", 1: "tokens"}),
        "image_keys": (keys, {1: "captions"}),
        "image_values": (values, {1: "captions"}),
        "past_keys": (past, {1: "captions", 3: "past"}),
        "past_values": (past.clone(), {1: "captions", 3: "past"}),  # one tensor given twice would be one input
    }
    _export(CaptionDecoder(network), folder / DECODER, inputs, ("logits", "keys", "values"))
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        for file in (folder / ENCODER, folder / DECODER):
            whole = file.rename(file.with_suffix(".whole"))
            with _errors_only(logging.getLogger()):  # it advises to do what changes nothing here
                quantize_dynamic(whole, file, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
            whole.unlink()
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    generation = network.generation_config
    ends = generation.eos_token_id
    write_json(
        folder / SETTINGS,
        {
            "start": generation.bos_token_id,
            "ends": ends if isinstance(ends, list) else [] if ends is None else [ends],
            "max_new_tokens": decoding.max_new_tokens,
            "min_new_tokens": decoding.min_new_tokens,
        },
    )
    (folder / PROGRAM).write_bytes(files("captioning.export").joinpath("caption_onnx.py").read_bytes())


def _export(
    module: nn.Module, file: Path, inputs: dict[str, tuple[Tensor, dict[int, str]]], outputs: tuple[str, ...]
) -> None:
    # Or it warns of packages that aren't needed.
    with _errors_only(logging.getLogger("torch.onnx")), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            tuple(example for example, _ in inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={name: dynamic for name, (_, dynamic) in inputs.items()},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(file)


@contextmanager
def _errors_only(log: logging.Logger) -> Iterator[None]:
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
