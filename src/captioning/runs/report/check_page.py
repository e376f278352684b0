"""``check.html``: whether data are ready to train on, and what in them is worth a look."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from PIL import Image

from captioning.data.issues import LEAK, LEFT_OUT, NOTICE, DataReport, pairs_by_finding
from captioning.data.statistics import spread
from captioning.runs.report import plots
from captioning.runs.report.numbers import numbers_of_split
from captioning.runs.report.templates import render_template
from captioning.runs.thumbnails import data_uri, small_jpeg

SAMPLES, PAIRS, IMAGES = 24, 20, 8  # shown: of all, of a kind of duplicates, of any other issue
NAMES_IN_PAGE, NAMES_SHOWN = 10_000, 20  # of a kind that is left out, of a notice
FEW_NAMES = 10  # of a kind that is left out; more are folded up
SIDE, QUALITY = 112, 70


@dataclass(frozen=True)
class Check:
    """What a page shows.

    Attributes:
        inspection: what was found.
        splits: the data of each split in numbers, as :func:`captioning.data.statistics.summarize` gives them.
        verdict: the line that says whether the data are ready, and why.
        ready: whether they are.
        data: what the user calls them.
        command: what was asked for.
        image: the image of a row, by its number.
    """

    inspection: DataReport
    splits: Mapping[str, Any]
    verdict: str
    ready: bool
    data: str
    command: str
    image: Callable[[int], Image.Image]

    @property
    def state(self) -> str:
        """``good``, ``fair`` (ready, but not with all of it, or with leaks) or ``bad``."""
        if not self.ready:
            return "bad"
        return "fair" if self.inspection.left_out or self.inspection.leaks else "good"


class ImageCard(NamedTuple):
    """An image (its ``data:`` URI; None where it can't be read) with its captions."""

    image: str | None
    id: str
    captions: list[str]
    note: str


class IssueCard(NamedTuple):
    """An issue as the page has it; ``pairs`` or ``cards`` where it is of images, else ``names``."""

    severity: str
    kind: str
    number: int
    names: list[str]
    cards: list[ImageCard]
    pairs: list[tuple[ImageCard, ImageCard]]


def render_check(check: Check) -> str:
    """The page. What comes from the data is escaped; only the plots and the style are taken as they are."""
    report, rows = check.inspection, check.inspection.rows
    split_of = {row: split for split, numbers in report.splits.items() for row in numbers}
    row_of = {name: row for row, name in enumerate(rows.ids)}
    pairs_of = pairs_by_finding(report.pairs, report.facts, report.splits)

    @cache
    def card(row: int) -> ImageCard:
        try:
            image = data_uri(small_jpeg(check.image(row), side=SIDE, quality=QUALITY))
        except OSError:  # deleted since it was checked
            image = None
        facts = report.facts[row]
        size = f"{facts.width:,} × {facts.height:,}"  # noqa: RUF001  the sign between width and height
        note = " · ".join(filter(None, (split_of.get(row), size, facts.mode)))
        return ImageCard(image, rows.ids[row], rows.captions[row], note)

    issues = []
    for severity, kind, names in report.findings:
        pairs = pairs_of.get((severity, kind), [])[:PAIRS]
        of_images = not pairs and severity != LEFT_OUT and all(name in row_of for name in names[:IMAGES])
        issue = IssueCard(
            severity=severity,
            kind=kind,
            number=len(names),
            names=names[: NAMES_IN_PAGE if severity == LEFT_OUT else NAMES_SHOWN],
            cards=[card(row_of[name]) for name in names[:IMAGES]] if of_images else [],
            pairs=[(card(first), card(second)) for first, second in pairs],
        )
        issues.append(issue)
    lengths: Counter[int] = Counter()
    for split in check.splits.values():
        lengths.update({int(words): count for words, count in split["caption_words"].items()})
    sizes = [facts.width for facts in report.facts], [facts.height for facts in report.facts]
    word, reason = re.split("[:,] ", check.verdict, maxsplit=1)
    return render_template(
        "check.html",
        styles=["style.css", "check.css"],
        check=check,
        word=word.capitalize(),
        reason=reason,
        images=len(split_of),
        few=FEW_NAMES,
        left_out=[issue for issue in issues if issue.severity == LEFT_OUT],
        leaks=[issue for issue in issues if issue.severity == LEAK],
        notices=[issue for issue in issues if issue.severity == NOTICE],
        splits={split: numbers_of_split(facts) for split, facts in check.splits.items()},
        plots={
            "Length of the captions": plots.caption_lengths({"captions": list(lengths.elements())}),
            "Size of the images": plots.image_sizes(*sizes),
        }
        if report.facts
        else {},
        samples=[card(row) for row in sample_rows(report.splits, SAMPLES)],
    )


def sample_rows(splits: Mapping[str, Sequence[int]], count: int) -> list[int]:
    """At most ``count`` rows, in even steps through the first split that has any."""
    return spread(next((numbers for numbers in splits.values() if numbers), []), count)
