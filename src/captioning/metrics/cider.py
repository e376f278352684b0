"""CIDEr-D: do a caption's telling n-grams occur in the references?"""

from collections import Counter
from math import exp, fsum, log, sqrt
from typing import NamedTuple

from captioning.metrics.corpus import Corpus, NGram, Words, ngram_counts
from captioning.metrics.metric import Fractions

ORDERS = 4
SIGMA = 6.0


class _Vector(NamedTuple):
    weights: dict[NGram, float]
    norms: list[float]  # of the part of each order
    length: int


def cider(corpus: Corpus) -> Fractions:
    """The mean over images and references of the similarity of tf-idf weighted n-grams, 1 to 4 words long, 0 to 10.

    Numbers over different images don't compare, since the weights come from the corpus; below a hundred images or so
    they are noise, and of one image the number is 0. Source: Vedantam et al. 2015, CIDEr-D of COCO's caption evaluation
    (pycocoevalcap), to which it is equal on the same words; COCO's own words come from the Penn Treebank tokenizer.
    """
    images: Counter[NGram] = Counter()
    for references in corpus.references:
        images.update(set().union(*map(ngram_counts, references)))
    unseen = log(len(corpus))
    # An n-gram that no image has weighs like one of one image: neither is kept, which saves most of the memory.
    idf = {ngram: unseen - log(count) for ngram, count in images.items() if count > 1}

    def vector(caption: Words) -> _Vector:
        weights = {ngram: count * idf.get(ngram, unseen) for ngram, count in ngram_counts(caption).items()}
        squares = [0.0] * ORDERS
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight * weight
        return _Vector(weights, [sqrt(square) for square in squares], len(caption))

    scores: Fractions = []
    for prediction, references in corpus:
        candidate = vector(prediction)
        similarities = [_similarity(candidate, vector(reference)) for reference in references]
        scores.append((10 * fsum(similarities) / len(similarities), 1))
    return scores


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
