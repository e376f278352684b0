"""Rows as the tensors that a training or evaluation step takes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NotRequired, TypedDict, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from captioning.data.cache import ImageCache
from captioning.data.images import read_image
from captioning.data.leakage import LeakageFilter
from captioning.data.packing import IGNORE_INDEX, PackedCaptions, pack
from captioning.data.rows import Row
from captioning.data.sampler import SampleIndex
from captioning.data.transforms import to_pixels
from captioning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BaseImageProcessor, PreTrainedTokenizerBase

MAX_CAPTIONS = 20  # of an image in one sample: memory grows with the square of their number


class Sample(TypedDict):
    """An image with the captions to train on, and all of its captions as references."""

    row: int  # number in the split; -1 in a stream
    id: str
    pixels: Tensor  # (3, height, width), uint8
    captions: list[str]
    references: list[str]
    seed: int  # of every random choice about this sample
    is_padding: bool


class Batch(TypedDict):
    """What a step takes; the lists have ``batch`` items."""

    pixel_values: Tensor  # (batch, 3, height, width): uint8, and once on the device float32, augmented and normalized
    input_ids: Tensor  # (batch, text length), int64
    attention_mask: Tensor  # (batch, text length), int64, 0 on padding
    labels: Tensor  # input_ids, with IGNORE_INDEX on padding, and all over padding samples
    position_ids: NotRequired[Tensor]  # where captions are packed, as captioning.data.packing has it
    caption_index: NotRequired[Tensor]  # likewise
    row: list[int]  # number in the split; -1 in a stream
    id: list[str]
    references: list[list[str]]
    seed: list[int]
    is_padding: list[bool]


def choose_captions(captions: list[str], which: str, seed: int) -> list[str]:
    """Of an image's captions one at random (``sample``), ``all`` (at most ``MAX_CAPTIONS``), or the ``first``."""
    if which == "first":
        return captions[:1]
    if which == "sample":
        return [random.Random(seed).choice(captions)]
    return captions if len(captions) <= MAX_CAPTIONS else random.Random(seed).sample(captions, MAX_CAPTIONS)


def _make_sample(index: SampleIndex, name: str, captions: list[str], pixels: Tensor, *, which: str) -> Sample:
    chosen = choose_captions(captions, which, index.seed)
    row, seed, is_padding = index
    return Sample(
        row=row, id=name, pixels=pixels, captions=chosen, references=captions, seed=seed, is_padding=is_padding
    )


class CaptionDataset(TorchDataset[Sample]):
    """One split as samples, by :class:`SampleIndex` or by row number.

    The pixels of row ``i`` are those at ``cache_index[i]`` in ``image_cache``, where they are cached.
    """

    def __init__(
        self,
        table: "Dataset",
        image_processor: "BaseImageProcessor",
        *,
        captions: str,
        image_cache: ImageCache | None = None,
        cache_index: "np.ndarray | None" = None,
    ) -> None:
        self.images = table.select_columns(["image"])
        self.texts = table.select_columns(["id", "captions"])
        self.image_processor = image_processor
        self.captions = captions
        self.image_cache = image_cache
        self.cache_index = cache_index

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: SampleIndex | int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SampleIndex | int]) -> list[Sample]:
        whole = [index if isinstance(index, SampleIndex) else SampleIndex(index) for index in indices]
        rows = [index.row for index in whole]
        texts = self.texts[rows]
        samples = zip(whole, texts["id"], texts["captions"], self._pixels(rows), strict=True)
        return [_make_sample(*sample, which=self.captions) for sample in samples]

    def _pixels(self, rows: list[int]) -> list[Tensor]:
        if self.image_cache is not None and self.cache_index is not None:
            return self.image_cache.read(self.cache_index[rows])
        images = self.images[rows]["image"]
        try:
            return [torch.from_numpy(to_pixels(read_image(image), self.image_processor)) for image in images]
        except OSError as error:
            raise UserError(
                f"data.path: an image can't be read any more, and could be when the run began ({error}); "
                "data.cache=true keeps what a run needs of its images"
            ) from error


@dataclass(frozen=True)
class StreamedSamples:
    """From a row of a stream to its sample; None where it would leak into validation or test."""

    image_processor: "BaseImageProcessor"
    captions: str
    leakage: LeakageFilter

    def __call__(self, row: Row, seed: int) -> Sample | None:
        image = read_image(row["image"])
        if self.leakage.matches_image(image):
            return None
        pixels = torch.from_numpy(to_pixels(image, self.image_processor))
        return _make_sample(SampleIndex(-1, seed), row["id"], row["captions"], pixels, which=self.captions)


@dataclass(frozen=True)
class Collator:
    """Samples to a :class:`Batch`, padded to its longest caption."""

    tokenizer: "PreTrainedTokenizerBase"
    max_caption_tokens: int

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        lists = {key: [sample[key] for sample in samples] for key in ("row", "id", "references", "seed", "is_padding")}
        captions, is_padding = [sample["captions"] for sample in samples], [sample["is_padding"] for sample in samples]
        tokens: dict[str, Tensor] | PackedCaptions
        if any(len(of_image) > 1 for of_image in captions):
            limit = self.max_caption_tokens
            tokens = pack(captions, self.tokenizer, max_caption_tokens=limit, is_padding=is_padding)
        else:
            how = {"padding": True, "truncation": True, "return_token_type_ids": False}
            text = self.tokenizer([one for (one,) in captions], max_length=self.max_caption_tokens, **how)
            input_ids, attention_mask = torch.tensor(text["input_ids"]), torch.tensor(text["attention_mask"])
            ignored = (attention_mask == 0) | torch.tensor(is_padding)[:, None]
            labels = input_ids.masked_fill(ignored, IGNORE_INDEX)
            tokens = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        pixels = torch.stack([sample["pixels"] for sample in samples])
        return cast("Batch", {"pixel_values": pixels, **tokens, **lists})
