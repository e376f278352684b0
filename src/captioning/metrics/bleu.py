"""BLEU as COCO's caption evaluation defines it."""

import numpy as np

from captioning.metrics.corpus import Corpus, ngram_counts
from captioning.metrics.metric import CaptionMetric, FloatArray

ORDERS = (1, 2, 3, 4)
# COCO's code keeps empty sums from dividing by zero with these. Where an order has no match at all, they are the score.
TINY, SMALL = 1e-15, 1e-9


class Bleu(CaptionMetric):
    """BLEU-1 to BLEU-4: the geometric mean of n-gram precisions up to that order, times a penalty for brevity.

    Sums are over images before anything is divided; the reference nearest in length gives the length that a caption
    should have. Of captions shorter than n words, BLEU-n is near 0. Source: Papineni et al. 2002, in the version of
    COCO's caption evaluation (Chen et al. 2015, pycocoevalcap), to which it is equal on the same words.
    """

    names = tuple(f"bleu{n}" for n in ORDERS)

    def statistics(self, corpus: Corpus) -> FloatArray:
        """Matches by order, n-grams by order, length, and length of the reference nearest in length, (images, 10)."""
        rows = []
        for prediction, references in corpus:
            matches = dict.fromkeys(ORDERS, 0)
            counts = [ngram_counts(reference) for reference in references]
            for ngram, count in ngram_counts(prediction).items():
                matches[len(ngram)] += min(count, max(reference[ngram] for reference in counts))
            length = len(prediction)
            nearest = min(map(len, references), key=lambda other: (abs(other - length), other))
            rows.append([*matches.values(), *(max(0, length - n + 1) for n in ORDERS), length, nearest])
        return np.array(rows, dtype=np.float64)

    def values(self, sums: FloatArray) -> FloatArray:
        matches, ngrams, length, reference_length = np.split(sums, [4, 8, 9], axis=-1)
        precisions = (matches + TINY) / (ngrams + SMALL)
        means = np.cumprod(precisions, axis=-1) ** (1 / np.array(ORDERS))
        ratio = (length + TINY) / (reference_length + SMALL)
        return means * np.exp(np.minimum(0, 1 - 1 / ratio))
