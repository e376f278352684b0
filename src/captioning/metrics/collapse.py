"""What catches a model that has stopped looking: one caption for everything, repetition, silence, captions by heart."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import fsum

from captioning.metrics.corpus import Corpus, Words
from captioning.metrics.metric import RatioOfSums


class UniqueCaptions(RatioOfSums):
    """Number of different captions over the number of captions.

    A caption that k images share counts 1/k for each of them, which gives each image a part in the number.

    Range: above 0 (one caption for everything) to 1 (no two alike). Direction: higher is better, up to the references'
    own variety. Source: distinct-n of Li et al. 2016, with the whole caption as the n-gram.
    """

    names = ("unique_captions",)

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        times = Counter(corpus.predictions)
        return [(1 / times[prediction], 1) for prediction in corpus.predictions]


class TopCaption(RatioOfSums):
    """Share of the images that are given the most frequent caption.

    Range: above 0 to 1 (one caption for everything). Direction: lower is better. Source: this project.
    """

    names = ("top_caption",)

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        top = top_caption(corpus.predictions)
        return [(float(prediction == top), 1) for prediction in corpus.predictions]


class EmptyCaptions(RatioOfSums):
    """Share of captions without a word.

    Range: 0 to 1. Direction: lower is better. Source: this project.
    """

    names = ("empty_captions",)

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        return [(float(not prediction), 1) for prediction in corpus.predictions]


class Repetition(RatioOfSums):
    """Share of bigrams that their caption has said before ("a dog a dog" says one of its three twice).

    Range: 0 to 1. Direction: lower is better. Source: seq-rep-n of Welleck et al. 2019 with n = 2, since captions have
    some ten words, and pooled over captions, since the shortest have no bigram at all.
    """

    names = ("repetition",)

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        return [_repeated_bigrams(prediction) for prediction in corpus.predictions]


class LengthRatio(RatioOfSums):
    """Words in the captions over words in their references, the mean length of an image's references for each.

    Range: 0 upwards. Direction: neither; 1 is best. Source: the length ratio that BLEU's implementations report, with
    the mean reference in place of the nearest, so that too short captions can't hide behind short references. A
    reference without a word counts as one word long.
    """

    names = ("length_ratio",)

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        return [
            (len(prediction), sum(max(len(words), 1) for words in references) / len(references))
            for prediction, references in corpus
        ]


class VocabularyCoverage(RatioOfSums):
    """Share of the references' vocabulary that the captions use: different words of the references that occur in any.

    A word that k images have in their references counts 1/k for each of them, above and below the line.

    Range: 0 to 1. Direction: higher is better; several references of an image have more words than one caption can.
    Source: van Miltenburg et al. 2018 ("coverage"), with the evaluated references as the vocabulary.
    """

    names = ("vocabulary_coverage",)

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        said = set().union(*corpus.predictions)
        vocabularies = [set().union(*references) for references in corpus.references]
        images = Counter(word for vocabulary in vocabularies for word in vocabulary)
        return [
            (fsum(1 / images[word] for word in vocabulary & said), fsum(1 / images[word] for word in vocabulary))
            for vocabulary in vocabularies
        ]


class CopiedCaptions(RatioOfSums):
    """Share of captions that are word for word a training caption.

    Range: 0 to 1. Direction: lower is better where every image deserves its own words; in a small language, such as
    that of drawn creatures, many copies are right. Source: the complement of the novel-caption share of Shetty et al.
    2017.
    """

    names = ("copied_captions",)

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        training = corpus.training_captions or frozenset()
        return [(float(" ".join(prediction) in training), 1) for prediction in corpus.predictions]


def top_share(captions: Sequence[Words]) -> float:
    """The share of the most frequent of some captions."""
    return max(Counter(captions).values()) / len(captions)


def repetition(captions: Sequence[Words]) -> float:
    """The share of bigrams that are repeats within their caption."""
    repeated, bigrams = map(sum, zip(*map(_repeated_bigrams, captions), strict=True))
    return repeated / max(bigrams, 1)


def top_caption(captions: Sequence[Words]) -> Words:
    """The most frequent caption; of several the first in the alphabet, whatever the order of the images."""
    times = Counter(captions)
    return min(times, key=lambda caption: (-times[caption], caption))


def _repeated_bigrams(caption: Words) -> tuple[int, int]:
    """How many bigrams of a caption it has said before, and how many it has."""
    bigrams = list(pairwise(caption))
    return len(bigrams) - len(set(bigrams)), len(bigrams)
