"""Do runs differ? Their numbers on the images that all of them were tested on, from their folders alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from pathlib import Path

import numpy as np
import numpy.typing as npt

from captioning.errors import UserError, nearest
from captioning.metrics import HIGHER_IS_BETTER, Scores, normalize, score
from captioning.metrics.bootstrap import ALPHA, RESAMPLES, paired_p_values, percentile_intervals
from captioning.metrics.error_rates import nearest_first
from captioning.metrics.metric import FloatArray
from captioning.metrics.metric_info import FEW_IMAGES
from captioning.runs.run_folder import Prediction, RunFolder, flat

TEACHER_FORCED = ("loss", "token_accuracy")  # take the model, so only the run itself can say them
# What captions can be ranked by. copied_captions takes the training captions, which run folders don't hold.
RANKABLE = [
    name
    for name, higher in HIGHER_IS_BETTER.items()
    if higher is not None and name not in (*TEACHER_FORCED, "copied_captions")
]

# Of environment.json: what two runs are compared by. The rest always differs.
PROVENANCE = ("data_fingerprint", "evaluated_split", "git", "devices", "python", "packages", "cuda")

Interval = tuple[float, float]


@dataclass(frozen=True)
class Number:
    """A metric over the common images, with its 95 % bootstrap interval; None for a single image."""

    value: float
    ci95: Interval | None


@dataclass(frozen=True)
class Difference(Number):
    """A metric of a run less that of the first run, with the p value of the paired bootstrap and a verdict."""

    p: float | None
    verdict: str  # better, worse, differs (neither way is better), no difference found, same captions, too few images


@dataclass(frozen=True)
class Change:
    """An image whose caption became better or worse from the first run to another."""

    id: str
    reference: str  # of several the one nearest to the better of the two captions
    captions: tuple[str, str]
    values: tuple[float, float]


@dataclass(frozen=True)
class JudgedRun:
    """A run, and how it differs from the first one; the first one itself has no differences."""

    name: str
    folder: str
    left_out: int  # test images that not all runs have
    numbers: dict[str, Number]
    teacher_forced: dict[str, float]  # as metrics.json has them; empty where the runs were tested on different images
    changed_captions: int  # those with other words
    differences: dict[str, Difference]
    improved: list[Change]  # most first
    worsened: list[Change]


@dataclass(frozen=True)
class Comparison:
    """Two or more runs beside each other, the first being what the others are compared with."""

    images: int
    resamples: int
    metric: str  # what `improved` and `worsened` are by
    warnings: list[str]
    runs: list[JudgedRun]
    settings: dict[str, list[str | None]]  # only what differs: a text for each run, None where it has no such setting
    environment: dict[str, list[str | None]]


def compare(folders: Sequence[Path], *, metric: str = "wer", captions: int = 5) -> Comparison:
    """Compare the runs in ``folders`` with the first of them.

    Args:
        folders: run folders, two or more, each with its ``predictions.jsonl``.
        metric: what captions are ranked by.
        captions: how many of the most improved, and of the most worsened ones.

    Raises:
        UserError: fewer than two runs, a run twice, one that can't be read, no common image, or no such metric.
    """
    _check(folders, metric)
    runs = [RunFolder(folder) for folder in folders]
    predictions = [require_predictions(run) for run in runs]
    ids = [image for image in predictions[0] if all(image in others for others in predictions)]
    if not ids:
        raise UserError(
            f"{folders[0]}: none of its test images is in every other run; compare runs of the same data and split"
        )
    references = [predictions[0][image]["references"] for image in ids]
    named = zip(runs, predictions, _short_names(folders), strict=True)
    tested = [_test(run, lines, name, ids, references) for run, lines, name in named]
    return Comparison(
        images=len(ids),
        resamples=RESAMPLES,
        metric=metric,
        warnings=_warnings(tested, ids),
        runs=[_judge(tested, own, ids, references, metric, captions) for own in tested],
        settings=_differing([None if run.config is None else flat(run.config) for run in runs]),
        environment=_differing([_provenance(run) for run in runs]),
    )


@dataclass(frozen=True)
class _Tested:
    """A run's captions of the common images with their scores, as they are and resampled, (resamples, names)."""

    run: RunFolder
    predictions: dict[str, Prediction]
    name: str
    captions: list[str]
    scores: Scores
    draws: FloatArray


def require_predictions(run: RunFolder) -> dict[str, Prediction]:
    """The test captions of a run, by the id of their image.

    Raises:
        UserError: there is no such folder, it has no ``predictions.jsonl``, or that is damaged.
    """
    if not run.path.is_dir():
        raise UserError(f"{run.path}: no such folder; give the folder of a run, such as outputs/DATE/TIME")
    if run.predictions is None:
        raise UserError(f"{run.path}: has no predictions.jsonl; a run writes it once its test has ended")
    return run.predictions


def _provenance(run: RunFolder) -> dict[str, str] | None:
    environment = run.environment
    return None if environment is None else flat({k: environment[k] for k in PROVENANCE if k in environment})


def _check(folders: Sequence[Path], metric: str) -> None:
    if len(folders) < 2:
        raise UserError(f"{', '.join(map(str, folders)) or 'no run'}: a run is compared with others; give two or more")
    for one, other in combinations(folders, 2):
        if one.resolve() == other.resolve():
            raise UserError(f"{other}: given twice; give each run once")
    if metric not in RANKABLE:
        raise UserError(f"--metric {metric}: captions can't be ranked by it{nearest(metric, RANKABLE)}")


def _short_names(folders: Sequence[Path]) -> list[str]:
    """As many last parts of each path as it takes to tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    counts = range(1, max(map(len, parts)) + 1)
    enough = next(count for count in counts if len({path[-count:] for path in parts}) == len(parts))
    return [str(Path(*path[-enough:])) for path in parts]


def _test(
    run: RunFolder,
    predictions: dict[str, Prediction],
    name: str,
    ids: Sequence[str],
    references: Sequence[Sequence[str]],
) -> _Tested:
    captions = [predictions[image]["prediction"] for image in ids]
    scores = score(captions, references)
    return _Tested(run, predictions, name, captions, scores, scores.resampled())  # with the same draws for all: paired


def _judge(
    tested: Sequence[_Tested],
    own: _Tested,
    ids: Sequence[str],
    references: Sequence[Sequence[str]],
    metric: str,
    count: int,
) -> JudgedRun:
    first = tested[0]
    changed = sum(normalize(a) != normalize(b) for a, b in zip(first.captions, own.captions, strict=True))
    intervals = own.scores.intervals()
    same_images = all(len(each.predictions) == len(ids) for each in tested)
    improved, worsened = _most_changed(first, own, ids, references, metric, count)
    return JudgedRun(
        name=own.name,
        folder=str(own.run.path),
        left_out=len(own.predictions) - len(ids),
        numbers={name: Number(value, intervals.get(name)) for name, value in own.scores.values().items()},
        teacher_forced=_teacher_forced(own.run) if same_images else {},
        changed_captions=changed,
        differences={} if own is first else _differences(first, own, changed),
        improved=improved,
        worsened=worsened,
    )


def _differences(first: _Tested, other: _Tested, changed: int) -> dict[str, Difference]:
    draws = np.round(other.draws - first.draws, 12)  # what is equal but for the last digit is equal
    differing = np.minimum(changed, _images_that_differ(first.scores, other.scores))
    before, after = first.scores.values(), other.scores.values()
    if len(first.captions) < 2:
        return {name: Difference(after[name] - before[name], None, None, "too few images") for name in before}
    columns = zip(before, percentile_intervals(draws), paired_p_values(draws, differing).tolist(), strict=True)
    differences = {}
    for name, interval, p in columns:
        value = after[name] - before[name]
        verdict = _verdict(value, p, HIGHER_IS_BETTER[name]) if changed else "same captions"
        differences[name] = Difference(value, interval, p, verdict)
    return differences


def _images_that_differ(one: Scores, other: Scores) -> npt.NDArray[np.int64]:
    """In how many images each number differs, (names,)."""
    counts = [
        np.repeat((abs(a - b) > 1e-12).any(axis=1).sum(), len(metric.names))
        for metric, a, b in zip(one.metrics, one.statistics, other.statistics, strict=True)
    ]
    return np.concatenate(counts)


def _verdict(difference: float, p: float, higher_is_better: bool | None) -> str:
    if p >= ALPHA:
        return "no difference found"
    if higher_is_better is None:
        return "differs"
    return "better" if (difference > 0) == higher_is_better else "worse"


def _most_changed(
    first: _Tested, other: _Tested, ids: Sequence[str], references: Sequence[Sequence[str]], metric: str, count: int
) -> tuple[list[Change], list[Change]]:
    """The ``count`` most improved and most worsened captions from one run to the other."""
    before, after = first.scores.of_images(metric), other.scores.of_images(metric)
    gains = np.round(after - before, 12) * (1 if HIGHER_IS_BETTER[metric] else -1)

    def change(i: int) -> Change:
        captions = first.captions[i], other.captions[i]
        nearest, *_ = nearest_first(captions[int(gains[i] > 0)], references[i])
        return Change(ids[i], nearest, captions, (float(before[i]), float(after[i])))

    improved = [change(i) for i in np.argsort(-gains, kind="stable")[:count] if gains[i] > 0]
    worsened = [change(i) for i in np.argsort(gains, kind="stable")[:count] if gains[i] < 0]
    return improved, worsened


def _teacher_forced(run: RunFolder) -> dict[str, float]:
    values = {name: (run.metrics or {}).get(f"test/{name}") for name in TEACHER_FORCED}
    return {name: value for name, value in values.items() if isinstance(value, int | float) and isfinite(value)}


def _warnings(tested: Sequence[_Tested], ids: Sequence[str]) -> list[str]:
    warnings = []
    if len(ids) < FEW_IMAGES:
        warnings.append(f"{len(ids)} images are few: below {FEW_IMAGES} CIDEr-D and intervals are noisy.")
    runs = [each.run for each in tested]
    fingerprints = {(run.environment or {}).get("data_fingerprint") for run in runs} - {None}
    if len(fingerprints) > 1:
        warnings.append("the runs had different data (data_fingerprint); an id may be of another image in each.")
    truths = [[sorted(each.predictions[image]["references"]) for each in tested] for image in ids]
    if differing := sum(any(truth != of_image[0] for truth in of_image) for of_image in truths):
        warnings.append(
            f"the references of {differing} of the images differ between runs; those of {tested[0].name} are used."
        )
    for file, lacking in (
        (".hydra/config.yaml", [each.name for each in tested if each.run.config is None]),
        ("environment.json", [each.name for each in tested if each.run.environment is None]),
    ):
        if lacking:
            warnings.append(f"there is no {file} in {', '.join(lacking)}; it isn't compared.")
    return warnings


def _differing(sides: Sequence[dict[str, str] | None]) -> dict[str, list[str | None]]:
    """What isn't the same in all runs that say anything."""
    known = [side for side in sides if side is not None]
    keys = dict.fromkeys(key for side in known for key in side)
    return {
        key: [(side or {}).get(key) for side in sides] for key in keys if len({side.get(key) for side in known}) > 1
    }
