"""The captions of a validation or a test, gathered from all processes and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch.distributed

from captioning.data.dataset import Batch
from captioning.metrics.scores import Scores, score
from captioning.runs.run_folder import Prediction


@dataclass(frozen=True)
class Evaluation:
    """Every evaluated image once, in the order of the data."""

    rows: list[int]  # numbers in the split
    predictions: list[Prediction]
    scores: Scores
    numbers: dict[str, float]  # every metric, the teacher-forced two first

    def metrics(self, phase: str) -> dict[str, Any]:
        """The numbers as ``metrics.json`` has them: ``test/wer``, and its interval ``test/wer_ci95``."""
        intervals = {f"{name}_ci95": list(interval) for name, interval in self.scores.intervals().items()}
        return {f"{phase}/{name}": value for name, value in (self.numbers | intervals).items()}


class CaptionEvaluator:
    """Collects the captions of one process, batch by batch, as text: some hundred bytes an image, and no tensor."""

    def __init__(self) -> None:
        self.numbered: list[tuple[int, Prediction]] = []

    def update(self, batch: Batch, predictions: Sequence[str]) -> None:
        """Take note of the captions of a batch, without padding samples."""
        for row, caption in enumerate(predictions):
            if not batch["is_padding"][row]:
                prediction = Prediction(id=batch["id"][row], references=batch["references"][row], prediction=caption)
                self.numbered.append((batch["row"][row], prediction))

    def compute(
        self, *, teacher_forced: Mapping[str, float], world_size: int, training_captions: Set[str] | None = None
    ) -> Evaluation:
        """Score the captions of all processes together: each of them has to call this and gets the same answer.

        ``teacher_forced`` numbers don't come from captions; ``training_captions`` are normalized.
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
        return Evaluation([row for row, _ in numbered], predictions, scores, {**teacher_forced, **scores.values()})
