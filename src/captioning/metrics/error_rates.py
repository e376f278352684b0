"""Word and character error rate of generated captions, exact over batches and processes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor
from torchmetrics import Metric

from captioning.metrics.text import normalize


class _ErrorRate(Metric):
    """Edits to the nearest reference over the length of that reference, both summed over all captions."""

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    units: Callable[[str], Sequence[str]]
    errors: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Counts, not rates, cross batches and processes: their sum doesn't depend on how captions were dealt out.
        self.add_state("errors", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Count the errors of each prediction against its own list of references."""
        for prediction, truths in zip(predictions, references, strict=True):
            errors, length = self._nearest(prediction, truths)
            self.errors += errors
            self.total += length

    def compute(self) -> Tensor:
        """Errors / reference length as a float32 scalar; NaN before the first update."""
        return self.errors / self.total

    def _nearest(self, prediction: str, references: Sequence[str]) -> tuple[int, int]:
        predicted = type(self).units(normalize(prediction))
        pairs = []
        for reference in references:
            # A reference without a word (punctuation alone) would divide by zero: it counts as one unit long.
            truth = type(self).units(normalize(reference))
            pairs.append((Levenshtein.distance(truth, predicted), max(len(truth), 1)))
        return min(pairs, key=lambda pair: (pair[0] / pair[1], pair[1]))


class WordErrorRate(_ErrorRate):
    """Word error rate: word substitutions, deletions and insertions over reference words.

    With several references of a picture, the nearest one counts: the one with the lowest rate for that caption.
    Range: 0 (every caption equals a reference) upwards; above 1 where captions are longer than they should be.
    Direction: lower is better. Source: jiwer 4's ``wer`` on normalized text, to which it is equal on single
    references (NIST's definition; Levenshtein distance over words).
    """

    units = staticmethod(str.split)


class CharErrorRate(_ErrorRate):
    """Character error rate: as :class:`WordErrorRate`, over characters with single spaces between words.

    Range: 0 upwards. Direction: lower is better. Source: jiwer 4's ``cer`` on normalized text.
    """

    units = staticmethod(str)
