"""The captions of a validation or a test, gathered from all processes and judged."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TypedDict

import torch.distributed

from captioning.data.batches import Batch
from captioning.metrics import Scores, score


class Prediction(TypedDict):
    """A line of ``predictions.jsonl``."""

    id: str
    references: list[str]
    prediction: str


@dataclass(frozen=True)
class Evaluation:
    """Every evaluated picture once, in the order of the data, however many processes had a part in it."""

    rows: list[int]  # numbers in the split
    predictions: list[Prediction]
    scores: Scores

    def worst_first(self) -> list[int]:
        """Indices of the pictures from the highest word error rate to the lowest, by CIDEr-D where it is the same."""
        wer, cider = self.scores.of_pictures("wer"), self.scores.of_pictures("cider")
        return sorted(range(len(self.predictions)), key=lambda index: (-wer[index], cider[index]))


class Judge:
    """Collects the captions of one process, batch by batch, as text: some hundred bytes a picture, and no tensor."""

    def __init__(self) -> None:
        self.numbered: list[tuple[int, Prediction]] = []

    def add(self, batch: Batch, predictions: Sequence[str]) -> None:
        """Take note of the captions of a batch, its fillers left out."""
        for row, caption in enumerate(predictions):
            if batch["counts"][row]:
                prediction = Prediction(id=batch["id"][row], references=batch["references"][row], prediction=caption)
                self.numbered.append((batch["row"][row], prediction))

    def conclude(self, *, world_size: int, training_captions: Set[str] | None = None) -> Evaluation:
        """Judge the captions of all processes together; each of them gets the same answer, to the last digit.

        Args:
            world_size: number of processes; all have to call this.
            training_captions: normalized, where they are known.
        """
        parts = [self.numbered]
        if world_size > 1:
            parts = [[] for _ in range(world_size)]
            torch.distributed.all_gather_object(parts, self.numbered)
        numbered = sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])
        predictions = [prediction for _, prediction in numbered]
        scores = score(
            [prediction["prediction"] for prediction in predictions],
            [prediction["references"] for prediction in predictions],
            training_captions=training_captions,
        )
        return Evaluation([row for row, _ in numbered], predictions, scores)
