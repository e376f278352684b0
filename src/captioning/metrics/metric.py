"""What a caption metric is: numbers that are functions of sums over images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from captioning.metrics.corpus import Corpus

FloatArray = npt.NDArray[np.float64]
Fractions = list[tuple[float, float]]  # of each image: its part of the numerator and of the denominator


class CaptionMetric(ABC):
    """Numbers of a corpus of captions that are functions of sums over its images.

    So each image has a number of its own (the function of its own statistics), and intervals come from adding up
    statistics again. Statistics may depend on the whole corpus, as CIDEr-D's n-gram weights do.
    """

    names: tuple[str, ...]

    @abstractmethod
    def statistics(self, corpus: Corpus) -> FloatArray:
        """What is summed, (images, k)."""

    @abstractmethod
    def values(self, sums: FloatArray) -> FloatArray:
        """The metric's numbers, (..., names), for sums of statistics, (..., k)."""


class RatioOfSums(CaptionMetric):
    """A sum over images divided by another, 0 where that one is 0; named as the function that gives both."""

    def __init__(self, fractions: Callable[[Corpus], Fractions]) -> None:
        self.names, self._fractions = (fractions.__name__,), fractions

    def statistics(self, corpus: Corpus) -> FloatArray:
        return np.array(self._fractions(corpus), dtype=np.float64)

    def values(self, sums: FloatArray) -> FloatArray:
        numerator, denominator = sums[..., :1], sums[..., 1:]
        return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
