"""How much each varied setting of a sweep matters, by the ranks of its jobs.

Jobs are ranked by their monitored number and grouped by the value of a setting. The share of the variance of the ranks
that lies between the groups is the effect size of the Kruskal-Wallis test, eta squared of H (Cohen 2008, Tomczak &
Tomczak 2014), and its p value is that of a permutation test. Ranks, because one job that diverged would otherwise be
all there is to see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import factorial, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from captioning.metrics.bootstrap import ALPHA
from captioning.metrics.metric import FloatArray

METHOD = "share of the variance of the jobs' ranks between the values of the setting (Kruskal-Wallis, eta squared of H)"
MOST_VALUES, QUARTERS = 6, 4  # a number with more values is cut into quarters with as many jobs in each
PERMUTATIONS = 4999

Groups = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Importance:
    """How much a setting matters.

    Attributes:
        setting: its dotted key.
        share: of the variance of the ranks, 0 to 1, less what chance alone would give; None where ``why_not``.
        p: how often chance alone gives as much.
        values: how many groups the jobs were put into.
        quarters: whether these are quarters of a number's values, rather than its values.
        alike: other settings whose values are grouped the same way, so that none can be told from them.
        why_not: why nothing can be said; empty where it can.
    """

    setting: str
    share: float | None
    p: float | None
    values: int
    quarters: bool
    alike: list[str]
    why_not: str

    @property
    def words(self) -> str:
        """The same in a sentence or two."""
        if self.share is None or self.p is None:
            return f"Can't be said: {self.why_not}."
        how = f"{self.values} {'groups of as many jobs' if self.quarters else 'values'}"
        verdict = "no more than chance may give" if self.p >= ALPHA else "more than chance gives"
        alike = f" It always changes together with {', '.join(self.alike)}, and can't be told from that."
        p = f"p = {self.p:.2g}" if self.p >= 0.001 else "p < 0.001"
        return f"{100 * self.share:.0f} % between {how}, {verdict} ({p}).{alike if self.alike else ''}"


def importances(settings: Mapping[str, Sequence[Any]], scores: Sequence[float]) -> list[Importance]:
    """The importance of each setting for the order of the scores, the most important first.

    Args:
        settings: the value of each setting in each job.
        scores: the monitored number of each job, finite.
    """
    groups = {name: _groups(values) for name, values in settings.items()}
    ranks = _ranks(np.asarray(scores, np.float64))
    shuffled = _shuffled(ranks)
    found = []
    for name, (labels, quarters) in groups.items():
        alike = [other for other, (theirs, _) in groups.items() if other != name and np.array_equal(labels, theirs)]
        why_not = _why_not(labels, ranks)
        share, p = (None, None) if why_not else _share(labels, ranks, shuffled)
        values = len(set(labels.tolist()))
        found.append(Importance(name, share, p, values, quarters, alike, why_not))
    return sorted(found, key=lambda one: -1.0 if one.share is None else one.share, reverse=True)


def as_number(value: Any) -> float | None:
    """A setting's value as a number; None where it is something else."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _groups(values: Sequence[Any]) -> tuple[Groups, bool]:
    """The group of each job, numbered as they occur, and whether groups are quarters of the values."""
    numbers = [as_number(value) for value in values]
    known = [number for number in numbers if number is not None]
    if len(known) == len(values) and len(set(known)) > MOST_VALUES:
        ranks = _ranks(np.asarray(known))
        return _numbered(np.minimum(((ranks - 0.5) * QUARTERS / len(known)).astype(int), QUARTERS - 1).tolist()), True
    return _numbered([repr(value) for value in values]), False


def _numbered(labels: Sequence[Any]) -> Groups:
    number = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    return np.array([number[label] for label in labels], dtype=np.intp)


def _ranks(values: FloatArray) -> FloatArray:
    """1 for the smallest; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse], dtype=np.float64)


def _shuffled(ranks: FloatArray) -> FloatArray:
    """The ranks in chance orders, (permutations, jobs), the same for every setting and every call."""
    return np.random.default_rng(0).permuted(np.tile(ranks, (PERMUTATIONS, 1)), axis=1)


def _why_not(labels: Groups, ranks: FloatArray) -> str:
    sizes = list(Counter(labels.tolist()).values())
    if len(set(ranks.tolist())) < 2:
        return "all jobs have the same number" if len(ranks) > 1 else "one finished job can't be compared"
    if len(sizes) < 2:
        return "the finished jobs have one value of it"
    if len(sizes) == len(labels):
        return "no two finished jobs share a value of it"
    # Orders of the jobs that no grouping tells apart are one; where these are few, chance gives the clearest of them
    # more often than one time in twenty.
    alike = Counter(sizes).values()
    orders = factorial(sum(sizes)) // prod(map(factorial, sizes)) // prod(map(factorial, alike))
    return f"{len(labels)} finished jobs are too few to tell it from chance" if orders * ALPHA < 1 else ""


def _share(labels: Groups, ranks: FloatArray, shuffled: FloatArray) -> tuple[float, float]:
    members = np.eye(labels.max() + 1)[labels]  # (jobs, groups)
    sizes, (jobs, groups) = members.sum(axis=0), members.shape
    centred = ranks - ranks.mean()
    total = float(centred @ centred)

    def between(rows: FloatArray) -> FloatArray:
        """The share of the variance of each row that lies between the groups; chance gives (groups - 1)/(jobs - 1)."""
        sums = (rows - ranks.mean()) @ members
        return np.asarray((sums**2 / sizes).sum(axis=-1) / total)

    own = float(between(ranks))
    p = (1 + int((between(shuffled) >= own - 1e-9).sum())) / (1 + len(shuffled))
    return max(0.0, (own * (jobs - 1) - (groups - 1)) / (jobs - groups)), p
