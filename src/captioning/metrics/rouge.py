"""ROUGE-L as COCO's caption evaluation defines it."""

from rapidfuzz.distance import LCSseq

from captioning.metrics.corpus import Corpus, Words
from captioning.metrics.metric import RatioOfSums

BETA = 1.2


class RougeL(RatioOfSums):
    """ROUGE-L: the mean over images of an F-score of the longest common subsequence of words.

    Precision is the subsequence's share of the caption, recall its share of the reference; of each the best over the
    references counts, and recall weighs more (beta = 1.2). An empty caption counts as one empty word.

    Range: 0 to 1. Direction: higher is better. Source: Lin 2004, in the version of COCO's caption evaluation (Chen et
    al. 2015, pycocoevalcap), to which it is equal on the same words. Other programs' ROUGE-L (F1, no maximum over
    references) gives other numbers.
    """

    names = ("rouge_l",)

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        return [
            (_f_score(prediction or ("",), [reference or ("",) for reference in references]), 1)
            for prediction, references in corpus
        ]


def _f_score(prediction: Words, references: list[Words]) -> float:
    common = [LCSseq.similarity(prediction, reference) for reference in references]
    precision = max(common) / len(prediction)
    recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
