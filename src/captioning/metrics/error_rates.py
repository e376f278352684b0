"""Word and character error rate, and exact matches."""

from collections.abc import Hashable, Iterable, Sequence

from rapidfuzz.distance import Levenshtein

from captioning.metrics.corpus import Corpus, words
from captioning.metrics.metric import RatioOfSums


class WordErrorRate(RatioOfSums):
    """Word error rate: word substitutions, deletions and insertions over the words of the reference.

    Errors and words are summed over images before they are divided. Of several references of an image the nearest
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


def nearest_first(prediction: str, references: Sequence[str]) -> list[str]:
    """The references of a caption, the one that :class:`WordErrorRate` judges it by first."""
    said = words(prediction)
    return sorted(references, key=lambda reference: _by_rate(_errors(said, words(reference))))


def _nearest(prediction: Sequence[Hashable], references: Iterable[Sequence[Hashable]]) -> tuple[int, int]:
    return min((_errors(prediction, reference) for reference in references), key=_by_rate)


def _errors(prediction: Sequence[Hashable], reference: Sequence[Hashable]) -> tuple[int, int]:
    """Edits from a reference to the prediction, and the reference's length."""
    return Levenshtein.distance(reference, prediction), max(len(reference), 1)


def _by_rate(errors_and_length: tuple[int, int]) -> tuple[float, int]:
    errors, length = errors_and_length
    return errors / length, length
