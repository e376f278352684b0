"""Captions of the best jobs of a sweep, of the same test images beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from captioning.data.statistics import spread
from captioning.errors import UserError
from captioning.metrics import normalize
from captioning.metrics.error_rates import nearest_first
from captioning.runs.comparison import RANKABLE, Comparison, compare, require_predictions
from captioning.runs.report.captions import Part, clipped, differences, equals_a_reference
from captioning.runs.run_folder import Prediction, RunFolder
from captioning.runs.thumbnails import data_uris
from captioning.sweeps.report import Job, Sweep

BEST, IMAGES = 4, 8


class Said(NamedTuple):
    """A job's caption: in parts, of which those differ that the nearest reference lacks."""

    parts: list[Part]
    empty: bool
    equal: bool


class Imaged(NamedTuple):
    """A test image with its references and the caption of each job; ``thumbnail`` is a ``data:`` URI."""

    id: str
    thumbnail: str | None
    references: list[str]
    captions: list[Said]


class SideBySide(NamedTuple):
    """The best jobs, a few test images with their captions, and what has to be said of both.

    ``common`` counts the test images of all these jobs, ``differing`` those whose captions aren't all in the same
    words.
    """

    jobs: list[Job]
    verdicts: list[str]
    images: list[Imaged]
    common: int
    differing: int
    notes: list[str]


def side_by_side(sweep: Sweep) -> SideBySide | None:
    """The captions of the best jobs; None where no job has any."""
    predictions, notes = _predictions(sweep.ranked)
    if not predictions:
        return None
    jobs = [job for job in sweep.ranked if job.name in predictions]
    first, *others = (predictions[job.name] for job in jobs)
    common = [image for image in first if all(image in other for other in others)]
    differing = [
        image for image in common if len({normalize(predictions[job.name][image]["prediction"]) for job in jobs}) > 1
    ]
    pool = differing or common
    chosen = [pool[place] for place in spread(range(len(pool)), IMAGES)]
    thumbnails = _thumbnails(jobs, chosen)
    images = [_imaged(image, thumbnails.get(image), [predictions[job.name][image] for job in jobs]) for image in chosen]
    verdicts, trouble = _verdicts(jobs, sweep.monitor)
    return SideBySide(jobs, verdicts, images, len(common), len(differing), notes + trouble)


def _predictions(ranked: Sequence[Job]) -> tuple[dict[str, dict[str, Prediction]], list[str]]:
    """The test captions of the best jobs that have any, by job, and what is wrong with those of others."""
    found: dict[str, dict[str, Prediction]] = {}
    notes = []
    for job in ranked:
        if len(found) == BEST:
            break
        try:
            found[job.name] = require_predictions(RunFolder(job.folder))
        except (UserError, OSError) as error:
            notes.append(f"Job {job.name} isn't shown: {error}")
    return found, notes


def _imaged(image: str, thumbnail: str | None, lines: Sequence[Prediction]) -> Imaged:
    references = lines[0]["references"]
    said = []
    for line in lines:
        caption = line["prediction"]
        parts, _ = differences(caption, nearest_first(caption, references)[0])
        said.append(Said(parts, not caption.strip(), equals_a_reference(caption, references)))
    return Imaged(image, thumbnail, [clipped(reference) for reference in references], said)


def _thumbnails(jobs: Sequence[Job], ids: Sequence[str]) -> dict[str, str]:
    """Small images from whichever job has them; a run folder keeps those that its own report shows."""
    thumbnails: dict[str, str] = {}
    for job in jobs:
        lacking = [("test", name) for name in ids if name not in thumbnails]
        if not lacking:
            break
        try:
            thumbnails |= {name: uri for (_, name), uri in data_uris(RunFolder(job.folder).thumbnails, lacking).items()}
        except (UserError, OSError):  # images are only beside the point
            continue
    return thumbnails


def _verdicts(jobs: Sequence[Job], monitor: str) -> tuple[list[str], list[str]]:
    """For each job how its test captions compare with the first one's, by the paired bootstrap; what hinders that."""
    if len(jobs) < 2:
        return [""] * len(jobs), []
    name = monitor.partition("/")[2]
    metric = name if name in RANKABLE else "wer"
    try:
        comparison = compare([job.folder for job in jobs], metric=metric, captions=0)
    except (UserError, OSError) as error:
        return [""] * len(jobs), [f"Not compared with each other: {error}"]
    return _in_words(comparison, metric), [f"Test captions: {warning}" for warning in comparison.warnings]


def _in_words(comparison: Comparison, metric: str) -> list[str]:
    words = [""]
    for run in comparison.runs[1:]:
        difference = run.differences[metric]
        is_tested = difference.p is not None and run.changed_captions
        p = f", p = {difference.p:.2g}" if is_tested else ""
        words.append(f"test {metric} {difference.value:+.3f}: {difference.verdict}{p}")
    return words
