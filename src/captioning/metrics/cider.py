"""CIDEr-D: do a caption's telling n-grams occur in the references?"""

from collections import Counter
from collections.abc import Mapping
from math import exp, fsum, log, sqrt
from typing import NamedTuple

from captioning.metrics.corpus import Corpus, NGram, Words, ngram_counts
from captioning.metrics.metric import RatioOfSums

ORDERS = 4
SIGMA = 6.0


class CiderD(RatioOfSums):
    """CIDEr-D: the mean over images and references of the similarity of tf-idf weighted n-grams, 1 to 4 words long.

    An n-gram weighs more the fewer images of the corpus have it in their references. A caption that repeats an n-gram
    more often than the reference gains nothing, and one of another length is marked down.

    Range: 0 to 10. Direction: higher is better. The weights come from the corpus itself: numbers over different
    images don't compare, below a hundred images or so they are noise, and of one image the number is 0 whatever
    the caption. Source: Vedantam et al. 2015, CIDEr-D of COCO's caption evaluation (pycocoevalcap), to which it is
    equal on the same words; COCO's own words come from the Penn Treebank tokenizer and differ in details.
    """

    names = ("cider",)

    def fractions(self, corpus: Corpus) -> list[tuple[float, float]]:
        weights = _inverse_document_frequency(corpus)
        unseen = log(len(corpus))
        scores: list[tuple[float, float]] = []
        for prediction, references in corpus:
            candidate = _vector(prediction, weights, unseen)
            similarities = [_similarity(candidate, _vector(words, weights, unseen)) for words in references]
            scores.append((10 * fsum(similarities) / len(similarities), 1))
        return scores


class _Vector(NamedTuple):
    weights: dict[NGram, float]
    norms: list[float]  # of the part of each order
    length: int


def _inverse_document_frequency(corpus: Corpus) -> dict[NGram, float]:
    """The logarithm of how many images there are to one that has an n-gram in its references."""
    images: Counter[NGram] = Counter()
    for references in corpus.references:
        images.update(set().union(*map(ngram_counts, references)))
    # An n-gram that no image has weighs like one of one image: neither is kept, which saves most of the memory.
    return {ngram: log(len(corpus)) - log(count) for ngram, count in images.items() if count > 1}


def _vector(words: Words, idf: Mapping[NGram, float], unseen: float) -> _Vector:
    weights = {ngram: count * idf.get(ngram, unseen) for ngram, count in ngram_counts(words).items()}
    squares = [0.0] * ORDERS
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    return _Vector(weights, [sqrt(square) for square in squares], len(words))


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Between 0 and 1: the mean over orders of clipped cosines, times a Gaussian of the difference in length."""
    products = [0.0] * ORDERS
    for ngram, weight in candidate.weights.items():
        other = reference.weights.get(ngram, 0.0)
        products[len(ngram) - 1] += min(weight, other) * other
    cosines = (
        product / (norm * other) if norm and other else 0.0
        for product, norm, other in zip(products, candidate.norms, reference.norms, strict=True)
    )
    difference = candidate.length - reference.length
    return sum(cosines) / ORDERS * exp(-(difference**2) / (2 * SIGMA**2))
