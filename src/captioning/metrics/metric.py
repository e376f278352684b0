"""What a caption metric is: numbers that are functions of sums over images."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from captioning.metrics.corpus import Corpus

FloatArray = npt.NDArray[np.float64]


class CaptionMetric(ABC):
    """Numbers of a corpus of captions that are functions of sums over its images.

    That form gives each image a number of its own (the function of its own statistics), and lets an interval be found
    by adding up statistics again, without looking at a caption twice. Statistics may depend on the whole corpus, as the
    n-gram weights of CIDEr-D do; so captions are gathered before they are judged.
    """

    names: ClassVar[tuple[str, ...]]

    @abstractmethod
    def statistics(self, corpus: "Corpus") -> FloatArray:
        """What is summed, (images, k)."""

    @abstractmethod
    def values(self, sums: FloatArray) -> FloatArray:
        """The metric's numbers, (..., names), for sums of statistics, (..., k)."""


class RatioOfSums(CaptionMetric):
    """A sum over images divided by another; 0 where that one is 0."""

    @abstractmethod
    def fractions(self, corpus: "Corpus") -> list[tuple[float, float]]:
        """Each image's part of the numerator and of the denominator."""

    def statistics(self, corpus: "Corpus") -> FloatArray:
        return np.array(self.fractions(corpus), dtype=np.float64)

    def values(self, sums: FloatArray) -> FloatArray:
        numerator, denominator = sums[..., :1], sums[..., 1:]
        return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
