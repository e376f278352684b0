"""Word and character error rate, and exact matches."""

from collections.abc import Hashable, Iterable, Sequence

from rapidfuzz.distance import Levenshtein

from captioning.metrics.corpus import Corpus
from captioning.metrics.metric import RatioOfSums


class WordErrorRate(RatioOfSums):
    """Word error rate: word substitutions, deletions and insertions over the words of the reference.

    Errors and words are summed over pictures before they are divided. Of several references of a picture the nearest
    one counts: the one with the lowest rate for that caption. A reference without a word counts as one word long.

    Range: 0 (every caption equals a reference) upwards; 1 for a model that says nothing, more where captions are longer
    than they should be. Direction: lower is better. Source: NIST's definition (Levenshtein distance over words), as in
    jiwer 4's ``wer``, to which it is equal on normalized single references.
    """

    names = ("wer",)
    higher_is_better = False

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        return [_nearest(prediction, references) for prediction, references in corpus]


class CharErrorRate(RatioOfSums):
    """Character error rate: as :class:`WordErrorRate`, over characters with single spaces between words.

    Range: 0 upwards. Direction: lower is better. Source: jiwer 4's ``cer``, to which it is equal on normalized single
    references.
    """

    names = ("cer",)
    higher_is_better = False

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        return [_nearest(" ".join(prediction), map(" ".join, references)) for prediction, references in corpus]


class ExactMatch(RatioOfSums):
    """Share of captions that equal a reference, after normalization.

    Range: 0 to 1. Direction: higher is better. Source: SQuAD's exact match (Rajpurkar et al. 2016), with this project's
    normalization, which keeps articles.
    """

    names = ("exact_match",)
    higher_is_better = True

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        return [(float(prediction in references), 1) for prediction, references in corpus]


def _nearest(prediction: Sequence[Hashable], references: Iterable[Sequence[Hashable]]) -> tuple[int, int]:
    """Errors against the nearest reference, and its length."""
    candidates = ((Levenshtein.distance(reference, prediction), max(len(reference), 1)) for reference in references)
    return min(candidates, key=lambda pair: (pair[0] / pair[1], pair[1]))
