"""Test captions beside their references: which to show, what differs, which words and captions are frequent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from captioning.data.statistics import spread
from captioning.metrics.corpus import words
from captioning.metrics.error_rates import nearest_first
from captioning.metrics.scores import score
from captioning.metrics.text import normalize
from captioning.runs.report.templates import MAX_LETTERS, clipped
from captioning.runs.run_folder import Prediction

ROWS, WORST, BEST = 500, 200, 100
MAX_REFERENCES = 5
PIECES = r"\s+|[\u3400-\u9fff\U00020000-\U0003ffff]|[^\s\u3400-\u9fff\U00020000-\U0003ffff]+"


class Part(NamedTuple):
    """A stretch of a caption that is the same in the other caption, or isn't."""

    text: str
    differs: bool


class CaptionRow(NamedTuple):
    """A test image. ``references`` has the nearest one first."""

    number: int
    id: str
    prediction: list[Part]
    references: list[list[Part]]
    more_references: int
    wer: float
    cider: float
    words: int
    exact: bool


def caption_rows(predictions: Sequence[Prediction]) -> list[CaptionRow]:
    """A row for each image that is shown, the worst caption first."""
    if not predictions:
        return []
    scores = score([line["prediction"] for line in predictions], [line["references"] for line in predictions])
    wer, cider, exact = (scores.of_images(name) for name in ("wer", "cider", "exact_match"))
    rows = []
    for index in chosen(sorted(range(len(predictions)), key=lambda index: (-wer[index], cider[index], index))):
        prediction = predictions[index]["prediction"]
        nearest, *others = nearest_first(prediction, predictions[index]["references"])
        marked, marked_nearest = differences(prediction, nearest)
        rows.append(
            CaptionRow(
                number=index + 1,
                id=predictions[index]["id"],
                prediction=marked,
                references=[marked_nearest, *([Part(clipped(other), False)] for other in others[: MAX_REFERENCES - 1])],
                more_references=max(0, len(others) + 1 - MAX_REFERENCES),
                wer=wer[index],
                cider=cider[index],
                words=len(words(prediction)),
                exact=bool(exact[index]),
            )
        )
    return rows


def chosen(worst_first: list[int]) -> list[int]:
    """Which images a report shows: at most 500, else the worst 200, the best 100, and 200 in even steps between."""
    if len(worst_first) <= ROWS:
        return worst_first
    between = spread(worst_first[WORST:-BEST], ROWS - WORST - BEST)
    return [*worst_first[:WORST], *between, *worst_first[-BEST:]]


def equals_a_reference(prediction: str, references: Iterable[str]) -> bool:
    """Whether a caption is one of the references, after normalization."""
    return words(prediction) in map(words, references)


def differences(prediction: str, reference: str) -> tuple[list[Part], list[Part]]:
    """Both captions in parts: which words the prediction has too many, and which it lacks, after normalization."""
    sides = []
    for caption in (prediction, reference):
        start = caption if len(caption) <= MAX_LETTERS else caption[:MAX_LETTERS].rstrip()
        tokens = [(piece, normalize(piece).split()) for piece in re.findall(PIECES, start)]
        sides.append((tokens, [word for _, keys in tokens for word in keys], clipped(caption)[len(start) :]))
    blocks = SequenceMatcher(None, sides[0][1], sides[1][1], autojunk=False).get_matching_blocks()
    marked = []
    for side, (tokens, _, rest) in enumerate(sides):
        same = {block[side] + i for block in blocks for i in range(block.size)}
        parts, position = [], 0
        for piece, keys in tokens:
            parts.append(Part(piece, not same.issuperset(range(position, position + len(keys)))))
            position += len(keys)
        marked.append(parts + [Part(rest, False)] * bool(rest))
    return marked[0], marked[1]


def frequent_captions(predictions: Sequence[str], top: int = 10) -> list[tuple[str, int, float]]:
    """The captions that occur more than once, after normalization, with number and share; the most frequent first."""
    counts = Counter(map(normalize, predictions)).most_common(top)
    return [(caption, count, count / len(predictions)) for caption, count in counts if count > 1]
