"""Captioner: images in, captions out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from transformers import ProcessorMixin

from captioning.data.images import as_rgb, decode
from captioning.data.transforms import normalize, to_pixels
from captioning.errors import UserError, nearest, reason, shown
from captioning.inference.download import download, is_url
from captioning.inference.pretrained import load_pretrained
from captioning.models.decoding import Decoding, decoding_settings
from captioning.models.generation import generate_tokens, mean_log_probabilities, prefill, texts
from captioning.models.git import GitForCausalLM, KVCache

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor"


class ImageError(UserError):
    """An image can't be opened; ``reason`` says why, without its name."""

    def __init__(self, image: object, reason: str) -> None:
        name = shown(str(image)) if isinstance(image, str | os.PathLike) else f"an image ({type(image).__name__})"
        super().__init__(f"{name}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Caption:
    """A caption of an image."""

    text: str
    score: float  # the model's mean log-probability (nats) of its tokens with the end, whatever decoding chose it by


@dataclass(frozen=True)
class CaptionResult:
    """An image of a stream, as it was given, with its captions, best first, or why it has none."""

    image: Any
    captions: list[Caption]
    error: str | None = None


class Captioner:
    """Captions images with a trained model.

    An image is a path, an http or https URL, the bytes of an image file, a PIL image, an array of uint8 (height,
    width), (height, width, 3) or (height, width, 4), or a tensor of uint8 (3, height, width). It is turned as its EXIF
    says, put on white where it is transparent, resized and cropped, all as in training.

    ``decoding`` chooses captions where a call doesn't say. By default it runs on an accelerator (CUDA, MPS, XPU) if
    there is one, in bfloat16 where an accelerator is fast at it, float16 on older GPUs, and float32 elsewhere.
    """

    def __init__(
        self,
        network: GitForCausalLM,
        processor: ProcessorMixin,
        *,
        decoding: Decoding | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.device = _device(device)
        has_bfloat16 = self.device.type != "cuda" or torch.cuda.get_device_capability(self.device) >= (8, 0)
        half = torch.bfloat16 if has_bfloat16 else torch.float16
        self.dtype = dtype or (half if self.device.type in ("cuda", "xpu") else torch.float32)
        self.network = network.to(self.device, self.dtype).eval()
        self.processor = processor
        self.decoding = decoding or Decoding()
        self.batch_size = 8 if self.device.type == "cpu" else 32
        if network.generation_config.bos_token_id is None:
            network.generation_config.bos_token_id = processor.tokenizer.cls_token_id

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Captioner:
        """Load a model: from a run folder, a ``.ckpt`` of one, a Hugging Face folder, or the Hub by name.

        Raises:
            UserError: there is no such model or device, or the model can't be used.
        """
        _device(device)  # before what is slow
        network, processor, decoding = load_pretrained(source if isinstance(source, str) else Path(source))
        return cls(network, processor, decoding=decoding, device=device, dtype=dtype)

    def __call__(self, images: ImageInput | Iterable[ImageInput], **options: Any) -> str | list[str]:
        """The caption of an image, or those of several, in order.

        The options are those of :meth:`stream`: ``prefix``, ``batch_size``, and settings such as ``num_beams=4``.

        Raises:
            UserError: a wrong setting or, as ImageError, an image that can't be opened.
        """
        captions = [best.text for best, *_ in self.candidates(images, **options)]
        return captions[0] if _is_one(images) else captions

    def candidates(
        self, images: ImageInput | Iterable[ImageInput], *, num_captions: int = 1, **options: Any
    ) -> list[list[Caption]]:
        """Captions of each image, best first, in a list even for one; the rest is as when called.

        ``num_captions`` are the ends of as many beams or, with a ``temperature``, samples, which may be equal.
        """
        given: Any = [images] if _is_one(images) else images
        result = []
        for captioned in self.stream(given, num_captions=num_captions, **options):
            if captioned.error is not None:
                raise ImageError(captioned.image, captioned.error)
            result.append(captioned.captions)
        return result

    def stream(
        self,
        images: Iterable[ImageInput],
        *,
        num_captions: int = 1,
        prefix: str = "",
        batch_size: int | None = None,
        workers: int | None = None,
        **decoding: Any,
    ) -> Iterator[CaptionResult]:
        """Caption any number of images, in order, in memory that doesn't grow with it.

        Args:
            images: one that can't be opened has an ``error`` in its place.
            num_captions: of each image, as for :meth:`candidates`.
            prefix: what each caption begins with; the model continues it.
            batch_size: images at once; one that doesn't fit into a GPU's memory is halved.
            workers: threads that open images, up to four batches ahead; by default one for each core, 16 at most.
            **decoding: settings of :class:`captioning.models.decoding.Decoding`, such as ``num_beams=4``.

        Raises:
            UserError: a wrong setting; at once, and not when the first is asked for.
        """
        settings = self.settings(**decoding)
        self.prompt(prefix, settings)
        for name, value in (("num_captions", num_captions), ("batch_size", batch_size), ("workers", workers)):
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        size, pool = batch_size or self.batch_size, ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1))
        remaining = iter(images)

        def results() -> Iterator[CaptionResult]:
            ahead: deque[tuple[ImageInput, Future[Tensor]]] = deque()
            try:
                while True:
                    for image in islice(remaining, 4 * size - len(ahead)):
                        ahead.append((image, pool.submit(self.prepare, image)))
                    batch = [ahead.popleft() for _ in range(min(size, len(ahead)))]
                    if not batch:
                        return
                    failures = [future.exception() for _, future in batch]
                    errors = [failure if isinstance(failure, ImageError) else None for failure in failures]
                    pixels = [future.result() for (_, future), error in zip(batch, errors, strict=True) if not error]
                    made = self.caption_pixels(torch.stack(pixels), settings, num_captions, prefix) if pixels else []
                    captions = iter(made)
                    for (image, _), error in zip(batch, errors, strict=True):
                        yield CaptionResult(image, [], error.reason) if error else CaptionResult(image, next(captions))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

        return results()

    def prepare(self, image: ImageInput) -> Tensor:
        """Open, resize and crop an image: (3, height, width), from 0 to 255. Raises ImageError."""
        try:
            return torch.from_numpy(to_pixels(_open(image), self.processor.image_processor))
        except (OSError, ValueError) as error:
            is_other = isinstance(error, UnidentifiedImageError)
            raise ImageError(image, "not an image" if is_other else reason(error)) from error

    @torch.inference_mode()
    def caption_pixels(
        self, pixels: Tensor, decoding: Decoding | None = None, num_captions: int = 1, prefix: str = ""
    ) -> list[list[Caption]]:
        """Captions of a batch (batch, 3, height, width), best first for each image.

        Pixels are from 0 to 255, as :meth:`prepare` makes them. A batch that doesn't fit into memory is halved.
        """
        decoding = decoding or self.decoding
        if decoding.temperature is None and decoding.num_beams < num_captions:
            decoding = replace(decoding, num_beams=num_captions)
        prompt = self.prompt(prefix, decoding)
        try:
            return self._caption(pixels, decoding, num_captions, prompt)
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
        halves = (self.caption_pixels(half, decoding, num_captions, prefix) for half in pixels.tensor_split(2))
        return [captions for half in halves for captions in half]

    def _caption(self, pixels: Tensor, decoding: Decoding, num_captions: int, prompt: list[int]) -> list[list[Caption]]:
        values = normalize(pixels.to(self.device), self.processor.image_processor).to(self.dtype)
        cache, again = prefill(self.network, values), KVCache()
        again.images = cache.images
        tokens = generate_tokens(self.network, cache, decoding, prompt=prompt, num_captions=num_captions)
        scores = mean_log_probabilities(self.network, again, tokens, given=1 + len(prompt))
        captions = list(map(Caption, texts(self.processor.tokenizer, tokens), scores.tolist()))
        return [
            sorted(captions[start : start + num_captions], key=lambda caption: -caption.score)
            for start in range(0, len(captions), num_captions)
        ]

    def settings(self, **decoding: Any) -> Decoding:
        """``self.decoding`` with some settings changed. Raises UserError for a wrong one."""
        known = [setting.name for setting in decoding_settings()]
        for name in decoding:
            if name not in known:
                raise UserError(f"{name}: no such setting{nearest(name, known)}")
        return replace(self.decoding, **decoding)

    def prompt(self, prefix: str, decoding: Decoding) -> list[int]:
        """The tokens of a prefix that the caption continues: without the end that a tokenizer would add.

        Raises:
            UserError: prefix and caption may be longer than the model can write.
        """
        tokens: list[int] = self.processor.tokenizer(prefix, add_special_tokens=False).input_ids if prefix else []
        positions, needed = self.network.config.max_position_embeddings, 1 + len(tokens) + decoding.max_new_tokens
        if needed > positions + 1:  # the last token needs none, because nothing follows it
            raise UserError(
                f"max_new_tokens={decoding.max_new_tokens} and a prefix of {len(tokens)} tokens: this model has "
                f"positions for {positions} tokens"
            )
        return tokens


def _is_one(images: object) -> bool:
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim < 4
    return isinstance(images, str | os.PathLike | bytes | Image.Image)


def _open(image: Any) -> Image.Image:
    """In RGB; raises OSError or ValueError where that can't be had."""
    match image:
        case str() if is_url(image):
            return decode(download(image))
        case str() | os.PathLike():
            return decode(Path(image).expanduser().read_bytes())
        case bytes():
            return decode(image)
        case Image.Image():
            return as_rgb(image)
        case Tensor():
            image = image.detach().cpu().numpy()
            image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{type(image).__name__} is no image: give a path, a URL, bytes, a PIL image or an array")
    is_color = image.ndim == 3 and image.shape[-1] in (3, 4)
    if image.dtype != np.uint8 or not (image.ndim == 2 or is_color) or not image.size:
        raise ValueError(
            f"{image.dtype} {image.shape}: an array is uint8, from 0 to 255, and (height, width), (height, width, 3) "
            "or (height, width, 4); a tensor is (3, height, width)"
        )
    return as_rgb(Image.fromarray(image))


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = str(error).strip().splitlines()[0][:100]
        raise UserError(f"device={device}: can't be used ({line}); cpu always can") from error


def local_device() -> str | None:
    """The accelerator of this process among those started on this machine; None where there is none."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    local_rank = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    return None if accelerator is None else f"{accelerator.type}:{local_rank % torch.accelerator.device_count()}"
