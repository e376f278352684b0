"""All metrics of a set of captions together: their numbers, those of each picture, and how sure they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from math import fsum

import numpy as np

from captioning.metrics.bleu import Bleu
from captioning.metrics.cider import CiderD
from captioning.metrics.collapse import (
    CopiedCaptions,
    EmptyCaptions,
    LengthRatio,
    Repetition,
    TopCaption,
    UniqueCaptions,
    VocabularyCoverage,
)
from captioning.metrics.corpus import Corpus
from captioning.metrics.error_rates import CharErrorRate, ExactMatch, WordErrorRate
from captioning.metrics.metric import CaptionMetric, FloatArray
from captioning.metrics.rouge import RougeL

# In the order in which tables show them. The last is left out where the training captions aren't known.
METRICS: tuple[CaptionMetric, ...] = (
    WordErrorRate(),
    CharErrorRate(),
    Bleu(),
    RougeL(),
    CiderD(),
    ExactMatch(),
    UniqueCaptions(),
    TopCaption(),
    EmptyCaptions(),
    Repetition(),
    LengthRatio(),
    VocabularyCoverage(),
    CopiedCaptions(),
)


def score(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    training_captions: Set[str] | None = None,
) -> Scores:
    """Judge one generated caption a picture by its references; see the classes in ``METRICS`` for what is measured.

    Args:
        predictions: a caption for each picture.
        references: the true captions of each picture, one or more.
        training_captions: what the model learned from, each as ``normalize`` leaves it; without them
            ``copied_captions`` is left out.

    Raises:
        UserError: no pictures, or a picture without a reference.
    """
    corpus = Corpus(predictions, references, training_captions=training_captions)
    metrics = METRICS if training_captions is not None else METRICS[:-1]
    return Scores(metrics, tuple(metric.statistics(corpus) for metric in metrics))


@dataclass(frozen=True)
class Scores:
    """The metrics of a set of captions, each with its statistics, (pictures, k), in the order of the pictures."""

    metrics: tuple[CaptionMetric, ...]
    statistics: tuple[FloatArray, ...]

    def __len__(self) -> int:
        return len(self.statistics[0])

    @property
    def names(self) -> list[str]:
        """The names of the numbers."""
        return [name for metric in self.metrics for name in metric.names]

    def values(self) -> dict[str, float]:
        """Each number over all pictures; the same to the last digit whatever the order of the pictures."""
        exact = [np.array([fsum(column) for column in table.T]) for table in self.statistics]
        return dict(zip(self.names, self._values(exact).tolist(), strict=True))

    def of_pictures(self, name: str) -> FloatArray:
        """A number of each picture by itself, (pictures,)."""
        return self._values(self.statistics)[:, self.names.index(name)]

    def resampled(self, *, resamples: int = 2000, seed: int = 0) -> FloatArray:
        """Each number over as many pictures drawn with replacement, (resamples, names).

        The draws depend on the number of pictures and the seed alone, so two models judged on the same pictures are
        resampled alike and their differences are paired. What one picture gets is kept: the n-gram weights of CIDEr-D
        and how many pictures share a caption or a word are those of all pictures.

        Source: the bootstrap (Efron 1979); for metrics of text, Koehn 2004.
        """
        generator = np.random.default_rng(seed)
        table = np.concatenate(self.statistics, axis=1)
        sums = np.concatenate([times @ table for times in _draws(generator, len(self), resamples)])
        edges = np.cumsum([statistics.shape[1] for statistics in self.statistics])[:-1]
        return self._values(np.split(sums, edges, axis=1))

    def intervals(self, *, share: float = 0.95, resamples: int = 2000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """The bootstrap percentile interval of each number; empty for a single picture, of which nothing follows."""
        if len(self) < 2:
            return {}
        tails = (1 - share) / 2
        low, high = np.quantile(self.resampled(resamples=resamples, seed=seed), [tails, 1 - tails], axis=0)
        return dict(zip(self.names, zip(low.tolist(), high.tolist(), strict=True), strict=True))

    def _values(self, sums: Sequence[FloatArray]) -> FloatArray:
        return np.concatenate([metric.values(part) for metric, part in zip(self.metrics, sums, strict=True)], axis=-1)


def _draws(generator: np.random.Generator, pictures: int, resamples: int) -> Iterator[FloatArray]:
    """How often each picture is drawn, (some resamples, pictures), some megabytes at a time."""
    while resamples > 0:
        count = min(resamples, max(1, 2**20 // pictures))
        drawn = generator.integers(pictures, size=(count, pictures)) + pictures * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * pictures).reshape(count, pictures).astype(np.float64)
        resamples -= count
