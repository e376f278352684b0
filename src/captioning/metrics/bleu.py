"""BLEU as COCO's caption evaluation defines it."""

import numpy as np

from captioning.metrics.corpus import Corpus, Words, ngram_counts
from captioning.metrics.metric import CaptionMetric, FloatArray

ORDERS = (1, 2, 3, 4)
# COCO's code keeps empty sums from dividing by zero with these. Where an order has no match at all, they are the score.
TINY, SMALL = 1e-15, 1e-9


class Bleu(CaptionMetric):
    """BLEU-1 to BLEU-4: the geometric mean of n-gram precisions up to that order, times a penalty for brevity.

    Of each caption, an n-gram counts as often as it occurs in the reference where it occurs most. Matches, n-grams and
    lengths are summed over images before anything is divided; the length that a caption should have is that of the
    reference nearest in length.

    Range: 0 to 1. Direction: higher is better. Of captions shorter than n words, BLEU-n is near 0, however right they
    are.
    Source: Papineni et al. 2002, in the version of COCO's caption evaluation (Chen et al. 2015, pycocoevalcap), to
    which it is equal on the same words.
    """

    names = tuple(f"bleu{n}" for n in ORDERS)

    def statistics(self, corpus: Corpus) -> FloatArray:
        rows = [_statistics(prediction, references) for prediction, references in corpus]
        return np.array(rows, dtype=np.float64)

    def values(self, sums: FloatArray) -> FloatArray:
        matches, ngrams = sums[..., 0:4], sums[..., 4:8]
        length, reference_length = sums[..., 8:9], sums[..., 9:10]
        precisions = (matches + TINY) / (ngrams + SMALL)
        means = np.cumprod(precisions, axis=-1) ** (1 / np.array(ORDERS))
        ratio = (length + TINY) / (reference_length + SMALL)
        return means * np.exp(np.minimum(0, 1 - 1 / ratio))


def _statistics(prediction: Words, references: list[Words]) -> list[int]:
    """Matches by order, n-grams by order, length, and length of the reference that is nearest in length."""
    matches = dict.fromkeys(ORDERS, 0)
    counts = [ngram_counts(reference) for reference in references]
    for ngram, count in ngram_counts(prediction).items():
        matches[len(ngram)] += min(count, max(reference[ngram] for reference in counts))
    length = len(prediction)
    nearest = min((len(reference) for reference in references), key=lambda other: (abs(other - length), other))
    return [*matches.values(), *(max(0, length - n + 1) for n in ORDERS), length, nearest]
