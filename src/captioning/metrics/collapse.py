"""What catches a model that has stopped looking: one caption for everything, repetition, silence, captions by heart."""

from collections import Counter
from itertools import pairwise
from math import fsum

from captioning.metrics.corpus import Corpus, Words
from captioning.metrics.metric import Fractions


def unique_captions(corpus: Corpus) -> Fractions:
    """Number of different captions over the number of captions; one that k images share counts 1/k for each.

    Source: distinct-n of Li et al. 2016, with the whole caption as the n-gram.
    """
    times = Counter(corpus.predictions)
    return [(1 / times[prediction], 1) for prediction in corpus.predictions]


def top_caption(corpus: Corpus) -> Fractions:
    """Share of the images that get the most frequent caption; of several the first in the alphabet."""
    times = Counter(corpus.predictions)
    top = min(times, key=lambda caption: (-times[caption], caption))
    return [(float(prediction == top), 1) for prediction in corpus.predictions]


def empty_captions(corpus: Corpus) -> Fractions:
    """Share of captions without a word."""
    return [(float(not prediction), 1) for prediction in corpus.predictions]


def repetition(corpus: Corpus) -> Fractions:
    """Share of bigrams that repeat an earlier one of their caption ("a dog a dog" repeats one of three).

    Source: seq-rep-n of Welleck et al. 2019 with n = 2, pooled over captions, since the shortest have no bigram at all.
    """
    return list(map(repeated_bigrams, corpus.predictions))


def repeated_bigrams(caption: Words) -> tuple[int, int]:
    """How many bigrams of a caption repeat an earlier one, and how many it has."""
    bigrams = list(pairwise(caption))
    return len(bigrams) - len(set(bigrams)), len(bigrams)


def length_ratio(corpus: Corpus) -> Fractions:
    """Words in the captions over words in their references, 1 at best, with the mean length of an image's references.

    Source: the length ratio of BLEU's implementations, whose nearest reference would hide captions that are too short.
    A reference without a word counts as one word long.
    """
    return [
        (len(prediction), sum(max(len(words), 1) for words in references) / len(references))
        for prediction, references in corpus
    ]


def vocabulary_coverage(corpus: Corpus) -> Fractions:
    """Share of the references' different words that occur in any caption; one of k images counts 1/k for each.

    Source: van Miltenburg et al. 2018 ("coverage"), with the evaluated references as the vocabulary.
    """
    said = set().union(*corpus.predictions)
    vocabularies = [set().union(*references) for references in corpus.references]
    images = Counter(word for vocabulary in vocabularies for word in vocabulary)
    return [
        (fsum(1 / images[word] for word in vocabulary & said), fsum(1 / images[word] for word in vocabulary))
        for vocabulary in vocabularies
    ]


def copied_captions(corpus: Corpus) -> Fractions:
    """Share of captions that are word for word a training caption; in a small language many copies are right.

    Source: the complement of the novel-caption share of Shetty et al. 2017.
    """
    training = corpus.training_captions or frozenset()
    return [(float(" ".join(prediction) in training), 1) for prediction in corpus.predictions]
