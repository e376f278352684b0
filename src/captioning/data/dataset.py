"""Rows as the tensors that a training or evaluation step takes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from captioning.data.images import read_image
from captioning.data.leakage import LeakageFilter
from captioning.data.packing import IGNORE_INDEX, pack
from captioning.data.pixel_file import PixelFile
from captioning.data.rows import Row
from captioning.data.sampler import SampleIndex
from captioning.data.transforms import to_pixels
from captioning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

CAPTIONS = ("sample", "all", "first")


class Sample(TypedDict):
    """One visited image with the captions to learn and all captions to be judged by."""

    row: int  # number in the split; -1 in a stream
    id: str
    pixels: Tensor  # (3, height, width), uint8
    captions: list[str]
    references: list[str]
    seed: int  # of every random choice about this visit
    counts: bool


class Batch(TypedDict):
    """What a step takes; the lists have ``batch`` items."""

    pixel_values: Tensor  # (batch, 3, height, width): uint8, and once on the device float32, augmented and normalized
    input_ids: Tensor  # (batch, text length), int64
    attention_mask: Tensor  # (batch, text length), int64, 0 on padding
    labels: Tensor  # input_ids, with IGNORE_INDEX on padding and all over fillers
    position_ids: NotRequired[Tensor]  # where captions are packed, as captioning.data.packing has it
    caption_index: NotRequired[Tensor]  # likewise
    row: list[int]  # number in the split; -1 in a stream
    id: list[str]
    references: list[list[str]]
    seed: list[int]
    counts: list[bool]


@dataclass(frozen=True)
class CaptionChoice:
    """Which captions of an image are learned at a visit.

    Args:
        which: ``sample`` (one by chance), ``all``, or ``first``.
        most: of all, no more than so many, others at each visit: memory grows with the square of their number.
    """

    which: str = "first"
    most: int = 20

    def __call__(self, captions: list[str], seed: int) -> list[str]:
        """The captions that a visit with this seed learns."""
        if self.which == "first":
            return captions[:1]
        if self.which == "sample":
            return [random.Random(seed).choice(captions)]
        return captions if len(captions) <= self.most else random.Random(seed).sample(captions, self.most)


def make_sample(visit: SampleIndex, name: str, captions: list[str], pixels: Tensor, *, choice: CaptionChoice) -> Sample:
    """A visit as a sample."""
    return Sample(
        row=visit.row,
        id=name,
        pixels=pixels,
        captions=choice(captions, visit.seed),
        references=captions,
        seed=visit.seed,
        counts=visit.counts,
    )


class CaptionDataset(TorchDataset[Sample]):
    """One split as samples, by :class:`SampleIndex` or by plain row number.

    Args:
        table: the rows of the split.
        image_processor: makes the pixels, where none are kept.
        choice: of the captions to learn.
        pixels: the pixels that are kept.
        cache_index: where in ``pixels`` those of each row are.
    """

    def __init__(
        self,
        table: "Dataset",
        image_processor: Any,
        *,
        choice: CaptionChoice,
        pixels: PixelFile | None = None,
        cache_index: "np.ndarray | None" = None,
    ) -> None:
        self.images = table.select_columns(["image"])
        self.texts = table.select_columns(["id", "captions"])
        self.image_processor = image_processor
        self.choice = choice
        self.pixels = pixels
        self.cache_index = cache_index

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, visit: SampleIndex | int) -> Sample:
        return self.__getitems__([visit])[0]

    def __getitems__(self, visits: Sequence[SampleIndex | int]) -> list[Sample]:
        whole = [visit if isinstance(visit, SampleIndex) else SampleIndex(visit) for visit in visits]
        rows = [visit.row for visit in whole]
        texts = self.texts[rows]
        samples = zip(whole, texts["id"], texts["captions"], self._pixels_of(rows), strict=True)
        return [make_sample(*sample, choice=self.choice) for sample in samples]

    def _pixels_of(self, rows: list[int]) -> list[Tensor]:
        if self.pixels is not None and self.cache_index is not None:
            return self.pixels.read(self.cache_index[rows])
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
    """From a row of a stream to its sample; None where that is held out.

    Args:
        image_processor: makes the pixels.
        choice: of the captions to learn.
        held_out: what mustn't be trained on.
    """

    image_processor: Any
    choice: CaptionChoice
    held_out: LeakageFilter

    def __call__(self, row: Row, seed: int) -> Sample | None:
        image = read_image(row["image"])
        if self.held_out.shows(image):
            return None
        pixels = torch.from_numpy(to_pixels(image, self.image_processor))
        return make_sample(SampleIndex(-1, seed), row["id"], row["captions"], pixels, choice=self.choice)


@dataclass(frozen=True)
class Collator:
    """Samples to a :class:`Batch`, padded to the longest caption in it and not further."""

    tokenizer: Any
    max_caption_tokens: int

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        counts = [sample["counts"] for sample in samples]
        captions = [sample["captions"] for sample in samples]
        single = all(len(of_image) == 1 for of_image in captions)
        batch: Any = {
            "pixel_values": torch.stack([sample["pixels"] for sample in samples]),
            **(self._text(captions, counts) if single else self._packed(captions, counts)),
            "row": [sample["row"] for sample in samples],
            "id": [sample["id"] for sample in samples],
            "references": [sample["references"] for sample in samples],
            "seed": [sample["seed"] for sample in samples],
            "counts": counts,
        }
        return batch  # type: ignore[no-any-return]

    def _text(self, captions: list[list[str]], counts: list[bool]) -> dict[str, Tensor]:
        text = self.tokenizer(
            [caption for (caption,) in captions],
            padding=True,
            truncation=True,
            max_length=self.max_caption_tokens,
            return_token_type_ids=False,
        )
        input_ids, attention_mask = torch.tensor(text["input_ids"]), torch.tensor(text["attention_mask"])
        ignored = (attention_mask == 0) | ~torch.tensor(counts)[:, None]
        labels = input_ids.masked_fill(ignored, IGNORE_INDEX)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}

    def _packed(self, captions: list[list[str]], counts: list[bool]) -> Any:
        return pack(captions, self.tokenizer, max_caption_tokens=self.max_caption_tokens, counts=counts)
