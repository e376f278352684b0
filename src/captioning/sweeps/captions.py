"""Captions of the best jobs of a sweep, side by side for the same test images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from captioning.data.statistics import spread
from captioning.errors import UserError
from captioning.metrics.error_rates import nearest_first
from captioning.metrics.text import normalize
from captioning.runs.comparison import require_predictions
from captioning.runs.report.captions import Part, differences, equals_a_reference
from captioning.runs.report.templates import clipped
from captioning.runs.run_folder import Prediction, RunFolder
from captioning.runs.thumbnails import data_uris
from captioning.sweeps.report import JobResult

BEST, IMAGES = 4, 8


class Caption(NamedTuple):
    """A job's caption."""

    parts: list[Part]  # those differ that the nearest reference lacks
    empty: bool
    equal: bool


class CaptionedImage(NamedTuple):
    """A test image with its references and captions."""

    id: str
    thumbnail: str | None  # a data: URI
    references: list[str]
    captions: list[Caption]  # one of each job


class SideBySide(NamedTuple):
    """The best jobs and a few test images with their captions."""

    jobs: list[JobResult]
    images: list[CaptionedImage]
    common: int  # test images of all these jobs
    differing: int  # those of them whose normalized captions differ
    notes: list[str]


def side_by_side(ranked: Sequence[JobResult]) -> SideBySide | None:
    """The captions of the best of ``ranked`` jobs; None if no job has any."""
    predictions: dict[str, dict[str, Prediction]] = {}
    thumbnails: dict[str, str] = {}
    notes = []
    for job in ranked:
        if len(predictions) == BEST:
            break
        try:
            predictions[job.name] = require_predictions(RunFolder(job.folder))
        except (UserError, OSError) as error:
            notes.append(f"Job {job.name} isn't shown: {error}")
    if not predictions:
        return None
    jobs = [job for job in ranked if job.name in predictions]
    first, *others = predictions.values()
    common = [image for image in first if all(image in other for other in others)]
    differing = [
        image
        for image in common
        if len({normalize(of_job[image]["prediction"]) for of_job in predictions.values()}) > 1
    ]
    pool = differing or common
    chosen = [pool[index] for index in spread(range(len(pool)), IMAGES)]
    for job in jobs:  # a run folder keeps those that its own report shows
        lacking = [("test", name) for name in chosen if name not in thumbnails]
        with suppress(UserError, OSError):  # captions can be read without images
            thumbnails |= {name: uri for (_, name), uri in data_uris(RunFolder(job.folder).thumbnails, lacking).items()}
    images = []
    for image in chosen:
        references = first[image]["references"]
        captions = []
        for of_job in predictions.values():
            text = of_job[image]["prediction"]
            parts, _ = differences(text, nearest_first(text, references)[0])
            captions.append(Caption(parts, not text.strip(), equals_a_reference(text, references)))
        shown = [clipped(reference) for reference in references]
        images.append(CaptionedImage(image, thumbnails.get(image), shown, captions))
    return SideBySide(jobs, images, len(common), len(differing), notes)
