"""All metrics of a set of captions together: their numbers, those of each image, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from math import fsum

import numpy as np

from captioning.metrics import collapse
from captioning.metrics.bleu import Bleu
from captioning.metrics.bootstrap import RESAMPLES, draws, percentile_intervals
from captioning.metrics.cider import cider
from captioning.metrics.corpus import Corpus
from captioning.metrics.error_rates import cer, exact_match, wer
from captioning.metrics.metric import CaptionMetric, FloatArray, RatioOfSums
from captioning.metrics.rouge import rouge_l

# In the order in which tables show them; the last takes the training captions.
METRICS: tuple[CaptionMetric, ...] = (
    *map(RatioOfSums, (wer, cer)),
    Bleu(),
    *map(RatioOfSums, (rouge_l, cider, exact_match)),
    *map(RatioOfSums, (collapse.unique_captions, collapse.top_caption, collapse.empty_captions, collapse.repetition)),
    *map(RatioOfSums, (collapse.length_ratio, collapse.vocabulary_coverage, collapse.copied_captions)),
)


def score(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, training_captions: Set[str] | None = None
) -> Scores:
    """Score one generated caption an image by its references, one or more; see ``METRICS`` for what is measured.

    ``training_captions`` are as ``normalize`` leaves them; without them ``copied_captions`` is left out.

    Raises:
        UserError: no images, or an image without a reference.
    """
    corpus = Corpus(predictions, references, training_captions)
    metrics = METRICS if training_captions is not None else METRICS[:-1]
    return Scores(metrics, tuple(metric.statistics(corpus) for metric in metrics))


@dataclass(frozen=True)
class Scores:
    """The metrics of a set of captions, each with its statistics, (images, k), in the order of the images."""

    metrics: tuple[CaptionMetric, ...]
    statistics: tuple[FloatArray, ...]

    def __len__(self) -> int:
        return len(self.statistics[0])

    @property
    def names(self) -> list[str]:
        """The names of the numbers."""
        return [name for metric in self.metrics for name in metric.names]

    def values(self) -> dict[str, float]:
        """Each number over all images; the same to the last digit whatever the order of the images."""
        exact = [np.array([fsum(column) for column in table.T]) for table in self.statistics]
        return dict(zip(self.names, self._values(exact).tolist(), strict=True))

    def of_images(self, name: str) -> FloatArray:
        """Each image's own number, (images,)."""
        return self._values(self.statistics)[:, self.names.index(name)]

    def worst_first(self) -> list[int]:
        """Indices of the images from the highest word error rate to the lowest, by CIDEr-D where it is the same."""
        order: list[int] = np.lexsort((self.of_images("cider"), -self.of_images("wer"))).tolist()
        return order

    def resampled(self, *, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
        """Each number over N images drawn with replacement from N, (resamples, names).

        Each image keeps its statistics: n-gram weights and shared captions or words are counted over all images.
        """
        table = np.concatenate(self.statistics, axis=1)
        sums = np.concatenate([times @ table for times in draws(len(self), resamples=resamples, seed=seed)])
        edges = np.cumsum([statistics.shape[1] for statistics in self.statistics])[:-1]
        return self._values(np.split(sums, edges, axis=1))

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % bootstrap interval of each number; empty for a single image, of which nothing follows."""
        if len(self) < 2:
            return {}
        return dict(zip(self.names, percentile_intervals(self.resampled()), strict=True))

    def _values(self, sums: Sequence[FloatArray]) -> FloatArray:
        return np.concatenate([metric.values(part) for metric, part in zip(self.metrics, sums, strict=True)], axis=-1)
