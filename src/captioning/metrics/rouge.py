"""ROUGE-L as COCO's caption evaluation defines it."""

from rapidfuzz.distance import LCSseq

from captioning.metrics.corpus import Corpus
from captioning.metrics.metric import Fractions

BETA = 1.2


def rouge_l(corpus: Corpus) -> Fractions:
    """The mean over images of an F-score of the longest common subsequence of words.

    Of its share of the caption (precision) and of the reference (recall, weighed by beta = 1.2) the best over the
    references counts. An empty caption counts as one empty word. Source: Lin 2004, in the version of COCO's caption
    evaluation (Chen et al. 2015, pycocoevalcap), to which it is equal on the same words.
    """
    scores: Fractions = []
    for prediction, references in corpus:
        caption, truths = prediction or ("",), [reference or ("",) for reference in references]
        common = [LCSseq.similarity(caption, truth) for truth in truths]
        precision = max(common) / len(caption)
        recall = max(length / len(truth) for length, truth in zip(common, truths, strict=True))
        f_score = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0
        scores.append((f_score, 1))
    return scores
