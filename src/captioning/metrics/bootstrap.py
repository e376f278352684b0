"""How sure a number is: what it would have been on other images of the same kind.

Source: the bootstrap (Efron 1979), for metrics of text as in Koehn 2004; its p values as in Davison & Hinkley 1997.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from captioning.metrics.metric import FloatArray

RESAMPLES = 2000
ALPHA = 0.05  # intervals hold 95 %


def draws(images: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[FloatArray]:
    """How often each image is drawn, (some resamples, images), some megabytes at a time.

    The same for all models that are scored on the same images, which pairs them.
    """
    generator = np.random.default_rng(seed)
    while resamples > 0:
        count = min(resamples, max(1, 2**20 // images))
        drawn = generator.integers(images, size=(count, images)) + images * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images).astype(np.float64)
        resamples -= count


def percentile_intervals(replicates: FloatArray) -> list[tuple[float, float]]:
    """The 95 % interval of each column of resampled numbers, (resamples, numbers)."""
    low, high = np.quantile(replicates, [ALPHA / 2, 1 - ALPHA / 2], axis=0).tolist()
    return list(zip(low, high, strict=True))


def paired_p_values(differences: FloatArray, differing: npt.NDArray[np.int64]) -> FloatArray:
    """The two-sided p value of each column of resampled differences, (resamples, numbers).

    No p is below that of a sign test in which all ``differing`` images, (numbers,), differ the same way: with four
    images chance does that one time in eight, which resampling can't know.
    """
    tails = 1 + np.minimum((differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0))
    p_values: FloatArray = np.minimum(2 * np.maximum(tails / (1 + len(differences)), 0.5**differing), 1.0)
    return p_values
