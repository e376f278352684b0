"""Do runs differ? Their metrics on the images that all of them were tested on, from their folders alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captioning.errors import UserError, nearest
from captioning.metrics.bootstrap import ALPHA, RESAMPLES, paired_p_values, percentile_intervals
from captioning.metrics.error_rates import nearest_first
from captioning.metrics.metric import FloatArray
from captioning.metrics.metric_info import FEW_IMAGES, HIGHER_IS_BETTER
from captioning.metrics.scores import Scores, score
from captioning.metrics.text import normalize
from captioning.runs.report.numbers import finite
from captioning.runs.run_folder import Json, Prediction, RunFolder, flat

TEACHER_FORCED = ("loss", "token_accuracy")  # take the model, so only the run itself can measure them
# What captions can be ranked by. copied_captions takes the training captions, which run folders don't hold.
RANKABLE = [
    name
    for name, higher in HIGHER_IS_BETTER.items()
    if higher is not None and name not in (*TEACHER_FORCED, "copied_captions")
]
IGNORED = ("resume", "output_dir", "experiment", "logger", "hub")  # settings that don't change what a run learns
# Of environment.json: what two runs are compared by. The rest always differs.
PROVENANCE = ("data_fingerprint", "evaluated_split", "git", "devices", "python", "packages", "cuda")


@dataclass(frozen=True)
class Estimate:
    """A metric over the common images, with its 95 % bootstrap interval; None for a single image."""

    value: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class Difference(Estimate):
    """A metric of a run less that of the first run, with the p value of the paired bootstrap and a verdict."""

    p: float | None
    verdict: str  # better, worse, differs (neither way is better), no difference found, same captions, too few images


@dataclass(frozen=True)
class CaptionChange:
    """An image whose caption became better or worse from the first run to another."""

    id: str
    reference: str  # of several the one nearest to the better of the two captions
    captions: tuple[str, str]
    values: tuple[float, float]


@dataclass(frozen=True)
class ComparedRun:
    """A run, and how it differs from the first one; the first one itself has no differences."""

    name: str
    folder: str
    left_out: int  # test images that not all runs have
    numbers: dict[str, Estimate]
    teacher_forced: dict[str, float]  # as metrics.json has them; empty where the runs were tested on different images
    changed_captions: int  # those with other words
    differences: dict[str, Difference]
    improved: list[CaptionChange]  # most first
    worsened: list[CaptionChange]


@dataclass(frozen=True)
class Comparison:
    """Two or more runs beside each other, the first being what the others are compared with."""

    images: int
    resamples: int
    metric: str  # what `improved` and `worsened` are by
    warnings: list[str]
    runs: list[ComparedRun]
    settings: dict[str, list[str | None]]  # only what differs: a text for each run, None where it has no such setting
    environment: dict[str, list[str | None]]


@dataclass(frozen=True)
class _ScoredRun:
    """A run's captions of the common images with their scores, as they are and resampled, (resamples, metrics)."""

    folder: RunFolder
    name: str
    predictions: dict[str, Prediction]  # of all its images
    captions: list[str]
    scores: Scores
    draws: FloatArray


def compare(folders: Sequence[Path], *, metric: str = "wer", captions: int = 5) -> Comparison:
    """Compare two or more runs with the first of them, with N ``captions`` most improved and worsened by ``metric``.

    Raises:
        UserError: fewer than two runs, a run twice, one that can't be read, no common image, or no such metric.
    """
    if len(folders) < 2:
        raise UserError(f"{', '.join(map(str, folders)) or 'no run'}: a run is compared with others; give two or more")
    paths = [folder.resolve().parts for folder in folders]
    if twice := [folder for number, folder in enumerate(folders) if paths[number] in paths[:number]]:
        raise UserError(f"{twice[0]}: given twice; give each run once")
    if metric not in RANKABLE:
        raise UserError(f"--metric {metric}: captions can't be ranked by it{nearest(metric, RANKABLE)}")
    runs = [RunFolder(folder) for folder in folders]
    predictions = [require_predictions(run) for run in runs]
    ids = [image for image in predictions[0] if all(image in others for others in predictions)]
    if not ids:
        raise UserError(
            f"{folders[0]}: none of its test images is in every other run; compare runs of the same data and split"
        )
    references = [predictions[0][image]["references"] for image in ids]
    parts = next(n for n in range(1, 1 + max(map(len, paths))) if len({path[-n:] for path in paths}) == len(paths))
    scored = []
    for run, lines, path in zip(runs, predictions, paths, strict=True):
        texts = [lines[image]["prediction"] for image in ids]
        scores = score(texts, references)
        resampled = scores.resampled()  # the same draws for all: paired
        scored.append(_ScoredRun(run, str(Path(*path[-parts:])), lines, texts, scores, resampled))
    return Comparison(
        images=len(ids),
        resamples=RESAMPLES,
        metric=metric,
        warnings=_warnings(scored, ids),
        runs=[_compared(scored, own, ids, references, metric, captions) for own in scored],
        settings=_differing([run.config for run in runs], lambda key: key not in IGNORED),
        environment=_differing([run.environment for run in runs], PROVENANCE.__contains__),
    )


def require_predictions(run: RunFolder) -> dict[str, Prediction]:
    """The test captions of a run, by the id of their image; a ``UserError`` where there are none."""
    if not run.path.is_dir():
        raise UserError(f"{run.path}: no such folder; give the folder of a run, such as outputs/DATE/TIME")
    if run.predictions is None:
        raise UserError(f"{run.path}: has no predictions.jsonl; a run writes it once its test has ended")
    return run.predictions


def _compared(
    scored: Sequence[_ScoredRun],
    own: _ScoredRun,
    ids: Sequence[str],
    references: Sequence[Sequence[str]],
    metric: str,
    count: int,
) -> ComparedRun:
    first = scored[0]
    changed = sum(normalize(a) != normalize(b) for a, b in zip(first.captions, own.captions, strict=True))
    intervals = own.scores.intervals()
    forced = {name: finite((own.folder.metrics or {}).get(f"test/{name}")) for name in TEACHER_FORCED}
    same_images = all(len(run.predictions) == len(ids) for run in scored)

    before, after = first.scores.of_images(metric), own.scores.of_images(metric)
    gains = np.round(after - before, 12) * (1 if HIGHER_IS_BETTER[metric] else -1)

    def change(i: int) -> CaptionChange:
        captions = first.captions[i], own.captions[i]
        closest, *_ = nearest_first(captions[int(gains[i] > 0)], references[i])
        return CaptionChange(ids[i], closest, captions, (float(before[i]), float(after[i])))

    return ComparedRun(
        name=own.name,
        folder=str(own.folder.path),
        left_out=len(own.predictions) - len(ids),
        numbers={name: Estimate(value, intervals.get(name)) for name, value in own.scores.values().items()},
        teacher_forced={name: value for name, value in forced.items() if same_images and value is not None},
        changed_captions=changed,
        differences={} if own is first else _differences(first, own, changed),
        improved=[change(i) for i in np.argsort(-gains, kind="stable")[:count] if gains[i] > 0],
        worsened=[change(i) for i in np.argsort(gains, kind="stable")[:count] if gains[i] < 0],
    )


def _differences(first: _ScoredRun, other: _ScoredRun, changed: int) -> dict[str, Difference]:
    before, after = first.scores.values(), other.scores.values()
    if len(first.captions) < 2:
        return {name: Difference(after[name] - before[name], None, None, "too few images") for name in before}
    draws = np.round(other.draws - first.draws, 12)  # what is equal but for the last digit is equal
    differing = [  # in how many images each metric differs, (metrics,)
        np.repeat((abs(a - b) > 1e-12).any(axis=1).sum(), len(metric.names))
        for metric, a, b in zip(first.scores.metrics, first.scores.statistics, other.scores.statistics, strict=True)
    ]
    p_values = paired_p_values(draws, np.minimum(changed, np.concatenate(differing))).tolist()
    differences = {}
    for name, interval, p in zip(before, percentile_intervals(draws), p_values, strict=True):
        value, higher = after[name] - before[name], HIGHER_IS_BETTER[name]
        verdict = "differs" if higher is None else "better" if (value > 0) == higher else "worse"
        if p >= ALPHA:
            verdict = "no difference found"
        differences[name] = Difference(value, interval, p, verdict if changed else "same captions")
    return differences


def _warnings(scored: Sequence[_ScoredRun], ids: Sequence[str]) -> list[str]:
    warnings = []
    if len(ids) < FEW_IMAGES:
        warnings.append(f"{len(ids)} images are few: below {FEW_IMAGES} CIDEr-D and intervals are noisy.")
    fingerprints = {(run.folder.environment or {}).get("data_fingerprint") for run in scored} - {None}
    if len(fingerprints) > 1:
        warnings.append("the runs had different data (data_fingerprint); an id may be of another image in each.")
    truths = [[sorted(run.predictions[image]["references"]) for run in scored] for image in ids]
    if differing := sum(any(truth != of_image[0] for truth in of_image) for of_image in truths):
        warnings.append(
            f"the references of {differing} of the images differ between runs; those of {scored[0].name} are used."
        )
    for file, lacking in (
        (".hydra/config.yaml", [run.name for run in scored if run.folder.config is None]),
        ("environment.json", [run.name for run in scored if run.folder.environment is None]),
    ):
        if lacking:
            warnings.append(f"there is no {file} in {', '.join(lacking)}; it isn't compared.")
    return warnings


def _differing(contents: Sequence[Json | None], counts: Callable[[str], bool]) -> dict[str, list[str | None]]:
    """What isn't the same in all runs that have the file, of the keys that count."""
    sides = [None if file is None else flat({k: v for k, v in file.items() if counts(k)}) for file in contents]
    known = [side for side in sides if side is not None]
    keys = dict.fromkeys(key for side in known for key in side)
    return {
        key: [(side or {}).get(key) for side in sides] for key in keys if len({side.get(key) for side in known}) > 1
    }
