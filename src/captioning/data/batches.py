"""Rows as the tensors that a training or evaluation step takes."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from captioning.data.pictures import decode, read_bytes
from captioning.data.visits import Visit

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import ProcessorMixin

IGNORE_INDEX = -100  # the label of a position that must not count in the loss


class Sample(TypedDict):
    """One visited picture with the caption to learn and all captions to be judged by."""

    row: int  # number in the split
    id: str
    pixel_values: Tensor
    caption: str
    references: list[str]
    counts: bool


class Batch(TypedDict):
    """What a step takes; the lists have ``batch`` items."""

    pixel_values: Tensor  # (batch, 3, height, width), float32, normalized
    input_ids: Tensor  # (batch, text length), int64
    attention_mask: Tensor  # (batch, text length), int64, 0 on padding
    labels: Tensor  # input_ids, with IGNORE_INDEX on padding and all over fillers
    row: list[int]  # number in the split
    id: list[str]
    references: list[list[str]]
    counts: list[bool]


class CaptionDataset(TorchDataset[Sample]):
    """One split as samples, by :class:`Visit` or by plain row number."""

    def __init__(self, table: "Dataset", processor: "ProcessorMixin", *, sample_captions: bool) -> None:
        self.table = table
        self.image_processor: Any = processor.image_processor
        self.sample_captions = sample_captions

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, visit: Visit | int) -> Sample:
        row, seed, counts = visit if isinstance(visit, Visit) else Visit(visit)
        item = self.table[row]
        captions = item["captions"]
        picture = decode(read_bytes(item["image"]))
        return Sample(
            row=row,
            id=item["id"],
            pixel_values=self.image_processor(picture, return_tensors="pt").pixel_values[0],
            caption=random.Random(seed).choice(captions) if self.sample_captions else captions[0],
            references=captions,
            counts=counts,
        )


@dataclass(frozen=True)
class Collator:
    """Samples to a :class:`Batch`, padded to the longest caption in it and not further."""

    tokenizer: Any
    max_caption_tokens: int

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        text: Mapping[str, Tensor] = self.tokenizer(
            [sample["caption"] for sample in samples],
            padding=True,
            truncation=True,
            max_length=self.max_caption_tokens,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        counts = [sample["counts"] for sample in samples]
        ignored = (text["attention_mask"] == 0) | ~torch.tensor(counts)[:, None]
        return Batch(
            pixel_values=torch.stack([sample["pixel_values"] for sample in samples]),
            input_ids=text["input_ids"],
            attention_mask=text["attention_mask"],
            labels=text["input_ids"].masked_fill(ignored, IGNORE_INDEX),
            row=[sample["row"] for sample in samples],
            id=[sample["id"] for sample in samples],
            references=[sample["references"] for sample in samples],
            counts=counts,
        )
