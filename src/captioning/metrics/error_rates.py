"""Word and character error rate, and exact matches."""

from collections.abc import Sequence

import jiwer

from captioning.metrics.corpus import Corpus, Words
from captioning.metrics.metric import RatioOfSums
from captioning.metrics.text import normalize

TO_WORDS, TO_CHARS = jiwer.ReduceToListOfListOfWords(), jiwer.ReduceToListOfListOfChars()


class WordErrorRate(RatioOfSums):
    """Word error rate: word substitutions, deletions and insertions over the words of the reference.

    Errors and words are summed over images before they are divided. Of several references of an image the nearest
    one counts: the one with the lowest rate for that caption. A reference without a word counts as one word long.

    Range: 0 (every caption equals a reference) upwards; 1 for a model that says nothing, more where captions are longer
    than they should be. Direction: lower is better. Source: NIST's definition (Levenshtein distance of words), counted
    by jiwer; equal to its ``wer`` on normalized single references.
    """

    names = ("wer",)

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        return [_nearest(prediction, references) for prediction, references in corpus]


class CharErrorRate(RatioOfSums):
    """Character error rate: as :class:`WordErrorRate`, over characters with single spaces between words.

    Range: 0 upwards. Direction: lower is better. Source: counted by jiwer; equal to its ``cer`` on normalized
    single references.
    """

    names = ("cer",)

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        return [_nearest(prediction, references, characters=True) for prediction, references in corpus]


class ExactMatch(RatioOfSums):
    """Share of captions that equal a reference, after normalization.

    Range: 0 to 1. Direction: higher is better. Source: SQuAD's exact match (Rajpurkar et al. 2016), with this project's
    normalization, which keeps articles.
    """

    names = ("exact_match",)

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        return [(float(prediction in references), 1) for prediction, references in corpus]


def nearest_first(prediction: str, references: Sequence[str]) -> list[str]:
    """The references of a caption, first the one that :class:`WordErrorRate` compares it with."""
    errors = _errors(normalize(prediction), [normalize(reference) for reference in references])
    return [
        reference for _, reference in sorted(zip(errors, references, strict=True), key=lambda pair: _by_rate(pair[0]))
    ]


def _nearest(prediction: Words, references: Sequence[Words], *, characters: bool = False) -> tuple[int, int]:
    """The errors and the length of the reference with the lowest rate."""
    return min(_errors(" ".join(prediction), [*map(" ".join, references)], characters=characters), key=_by_rate)


def _errors(prediction: str, references: Sequence[str], *, characters: bool = False) -> list[tuple[int, int]]:
    """For each reference the edits from it to the prediction, and its length."""
    process, split = (jiwer.process_characters, TO_CHARS) if characters else (jiwer.process_words, TO_WORDS)
    aligned = process([*references], [prediction] * len(references), split, split)
    return [
        (
            sum(
                max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
                for chunk in alignment
                if chunk.type != "equal"
            ),
            max(len(reference), 1),
        )
        for alignment, reference in zip(aligned.alignments, aligned.references, strict=True)
    ]


def _by_rate(errors_and_length: tuple[int, int]) -> tuple[float, int]:
    errors, length = errors_and_length
    return errors / length, length
