"""``check.html``: whether data are fit to train on, and what in them is worth a look."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image

from captioning.data.issues import LEAK, LEFT_OUT, NOTICE, DataReport, Issue, pairs_by_finding
from captioning.data.statistics import spread
from captioning.runs.report import histograms
from captioning.runs.report.numbers import numbers_of_split
from captioning.runs.report.templates import render_template
from captioning.runs.thumbnails import data_uri, small_jpeg

SAMPLES, PAIRS, IMAGES = 24, 20, 8  # shown: of all, of a kind of duplicates, of any other finding
NAMES_IN_PAGE, NAMES_SHOWN = 10_000, 20  # of a kind that is left out, of a notice
FEW_NAMES = 10  # of a kind that is left out; more are folded up
SIDE, QUALITY = 112, 70


@dataclass(frozen=True)
class Check:
    """What a page tells.

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


class Card(NamedTuple):
    """An image (its ``data:`` URI; None where it can't be had) with what is told of it."""

    image: str | None
    id: str
    captions: list[str]
    note: str


class Told(NamedTuple):
    """A finding as the page has it; ``pairs`` or ``cards`` where it is of images, else ``names``."""

    severity: str
    kind: str
    number: int
    names: list[str]
    cards: list[Card]
    pairs: list[tuple[Card, Card]]


def render_check(check: Check) -> str:
    """The page. What comes from the data is escaped; only the plots and the style are taken as they are."""
    cards = _Cards(check)
    told = [_tell(finding, cards) for finding in check.inspection.findings]
    word, reason = re.split("[:,] ", check.verdict, maxsplit=1)
    return render_template(
        "check.html",
        styles=["style.css", "check.css"],
        check=check,
        word=word.capitalize(),
        reason=reason,
        images=sum(map(len, check.inspection.splits.values())),
        few=FEW_NAMES,
        left_out=[one for one in told if one.severity == LEFT_OUT],
        leaks=[one for one in told if one.severity == LEAK],
        notices=[one for one in told if one.severity == NOTICE],
        splits={split: numbers_of_split(facts) for split, facts in check.splits.items()},
        plots=_plots(check),
        samples=[cards.card(row) for row in sample_rows(check.inspection.splits, SAMPLES)],
    )


class _Cards:
    """Makes cards; an image is read once, however many findings it is shown with."""

    def __init__(self, check: Check) -> None:
        rows = check.inspection.rows
        self.ids, self.captions, self.facts = rows.ids, rows.captions, check.inspection.facts
        self.split_of = {row: split for split, numbers in check.inspection.splits.items() for row in numbers}
        self.row_of = {name: row for row, name in enumerate(self.ids)}
        self.pairs = pairs_by_finding(check.inspection.pairs, self.facts, check.inspection.splits)
        self._open_image = check.image
        self._images: dict[int, str | None] = {}

    def card(self, row: int) -> Card:
        if row not in self._images:
            self._images[row] = self._image(row)
        facts = self.facts[row]
        size = f"{facts.width:,} × {facts.height:,}"  # noqa: RUF001  the sign between width and height
        note = " · ".join(filter(None, (self.split_of.get(row), size, facts.mode)))
        return Card(self._images[row], self.ids[row], self.captions[row], note)

    def _image(self, row: int) -> str | None:
        try:
            return data_uri(small_jpeg(self._open_image(row), side=SIDE, quality=QUALITY))
        except OSError:  # gone since it was looked at
            return None


def _tell(finding: Issue, cards: _Cards) -> Told:
    severity, kind, names = finding
    pairs = cards.pairs.get((severity, kind), [])[:PAIRS]
    return Told(
        severity=severity,
        kind=kind,
        number=len(names),
        names=names[: NAMES_IN_PAGE if severity == LEFT_OUT else NAMES_SHOWN],
        cards=[] if pairs else [cards.card(row) for row in _rows_named(finding, cards.row_of)],
        pairs=[(cards.card(first), cards.card(second)) for first, second in pairs],
    )


def _rows_named(finding: Issue, row_of: Mapping[str, int]) -> list[int]:
    """The first rows that a finding names; none where it names something else, such as words."""
    first = finding.names[:IMAGES]
    if finding.severity == LEFT_OUT or not all(name in row_of for name in first):
        return []
    return [row_of[name] for name in first]


def _plots(check: Check) -> dict[str, Any]:
    facts = check.inspection.facts
    if not facts:
        return {}
    words: Counter[int] = Counter()
    for split in check.splits.values():
        words.update({int(length): count for length, count in split["caption_words"].items()})
    return {
        "Length of the captions": histograms.caption_lengths(words),
        "Size of the images": histograms.image_sizes([one.width for one in facts], [one.height for one in facts]),
    }


def sample_rows(splits: Mapping[str, Sequence[int]], count: int) -> list[int]:
    """At most ``count`` rows, in even steps through the first split that has any."""
    return spread(next((numbers for numbers in splits.values() if numbers), []), count)
