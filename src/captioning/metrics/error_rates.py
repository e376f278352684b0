"""Word and character error rate, and exact matches."""

from collections.abc import Sequence

import jiwer

from captioning.metrics.corpus import Corpus
from captioning.metrics.metric import Fractions
from captioning.metrics.text import normalize

TO_WORDS, TO_CHARS = jiwer.ReduceToListOfListOfWords(), jiwer.ReduceToListOfListOfChars()


def wer(corpus: Corpus) -> Fractions:
    """Word error rate: word substitutions, deletions and insertions over the words of the reference, above 1 at worst.

    Of several references the one with the lowest rate counts; one without a word counts as one word long. Source:
    NIST's definition (Levenshtein distance), counted by jiwer; equal to its ``wer`` on normalized single references.
    """
    return [
        min(_errors(" ".join(caption), [*map(" ".join, references)]), key=_by_rate) for caption, references in corpus
    ]


def cer(corpus: Corpus) -> Fractions:
    """Character error rate: as :func:`wer`, over characters with single spaces between words, as jiwer's ``cer``."""
    return [
        min(_errors(" ".join(caption), [*map(" ".join, references)], characters=True), key=_by_rate)
        for caption, references in corpus
    ]


def exact_match(corpus: Corpus) -> Fractions:
    """Share of captions that equal a reference, after normalization.

    Source: SQuAD's exact match (Rajpurkar et al. 2016), with this project's normalization, which keeps articles.
    """
    return [(float(prediction in references), 1) for prediction, references in corpus]


def nearest_first(prediction: str, references: Sequence[str]) -> list[str]:
    """The references of a caption, first the one that :func:`wer` compares it with."""
    errors = _errors(normalize(prediction), [normalize(reference) for reference in references])
    order = sorted(range(len(references)), key=lambda index: _by_rate(errors[index]))
    return [references[index] for index in order]


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
