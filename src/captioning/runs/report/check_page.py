"""``check.html``: whether data are ready to train on, and what in them is worth a look."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image

from captioning.data.issues import LEAK, LEFT_OUT, NOTICE, DataReport, pairs_by_issue
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
    """What a page shows."""

    report: DataReport
    splits: Mapping[str, Any]  # each in numbers, as captioning.data.statistics.summarize gives them
    verdict: str  # the line that says whether the data are ready, and why
    ready: bool
    data: str  # what the user calls them
    command: str
    image: Callable[[int], Image.Image]  # of a row, by its number

    @property
    def state(self) -> str:
        """``good``, ``fair`` (ready, but not with all of it, or with leaks) or ``bad``."""
        if not self.ready:
            return "bad"
        return "fair" if self.report.left_out or self.report.leaks else "good"


def render_check(check: Check) -> str:
    """The page. What comes from the data is escaped."""
    report, rows = check.report, check.report.rows
    split_of = {row: split for split, numbers in report.splits.items() for row in numbers}
    row_of = {name: row for row, name in enumerate(rows.ids)}
    pairs_of = pairs_by_issue(report.pairs, report.image_infos, report.splits)

    @cache
    def card(row: int) -> dict[str, object]:
        image = None
        with suppress(OSError):  # deleted since it was checked
            image = data_uri(small_jpeg(check.image(row), side=SIDE, quality=QUALITY))
        facts = report.image_infos[row]
        size = f"{facts.width:,} × {facts.height:,}"  # noqa: RUF001  the sign between width and height
        note = " · ".join(filter(None, (split_of.get(row), size, facts.mode)))
        return {"image": image, "id": rows.ids[row], "captions": rows.captions[row], "note": note}

    issues: dict[str, list[dict[str, object]]] = {LEFT_OUT: [], LEAK: [], NOTICE: []}
    for severity, kind, names in report.issues:
        pairs = pairs_of.get((severity, kind), [])[:PAIRS]
        of_images = not pairs and severity != LEFT_OUT and all(name in row_of for name in names[:IMAGES])
        issue = {
            "severity": severity,
            "kind": kind,
            "number": len(names),
            "names": names[: NAMES_IN_PAGE if severity == LEFT_OUT else NAMES_SHOWN],
            "cards": [card(row_of[name]) for name in names[:IMAGES]] if of_images else [],
            "pairs": [(card(first), card(second)) for first, second in pairs],
        }
        issues[severity].append(issue)
    figures = {}
    if report.image_infos:
        counts = [item for split in check.splits.values() for item in split["caption_words"].items()]
        lengths = [int(words) for words, count in counts for _ in range(count)]
        sizes = [facts.width for facts in report.image_infos], [facts.height for facts in report.image_infos]
        figures = {
            "Length of the captions": plots.caption_lengths({"captions": lengths}),
            "Size of the images": plots.image_sizes(*sizes),
        }
    word, reason = re.split("[:,] ", check.verdict, maxsplit=1)
    return render_template(
        "check.html",
        styles=["style.css", "check.css"],
        check=check,
        word=word.capitalize(),
        reason=reason,
        images=len(split_of),
        few=FEW_NAMES,
        left_out=issues[LEFT_OUT],
        leaks=issues[LEAK],
        notices=issues[NOTICE],
        splits={split: numbers_of_split(facts) for split, facts in check.splits.items()},
        plots=figures,
        samples=[card(row) for row in spread(next(filter(None, report.splits.values()), []), SAMPLES)],
    )
