"""A parallel-coordinates plot: an axis for each setting that varies, one for the number, and a line for each job."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log10
from typing import Any, NamedTuple

from matplotlib.ticker import LogLocator, MaxNLocator

from captioning.sweeps.importance import as_number
from captioning.sweeps.report import value_text

GAP, HEIGHT, TOP, BOTTOM, SIDE = 150, 280, 52, 26, 90  # in pixels where the plot has its natural size
LONG_SPAN = 20  # a largest value over the smallest from which a scale is logarithmic
MOST_LABELS, LONGEST_LABEL = 12, 20
CLOSEST = 0.07  # of an axis between two numbers on it


class Tick(NamedTuple):
    """A label at a height, in pixels."""

    y: float
    text: str


class Axis(NamedTuple):
    """An axis with the height of each job on it, in pixels from the top.

    ``low`` and ``high`` are the numbers at its lower and its upper end, None where values are no numbers.
    """

    name: str
    full_name: str
    x: float
    ticks: list[Tick]
    y: list[float]
    low: float | None
    high: float | None
    logarithmic: bool


class Parallel(NamedTuple):
    """The plot, ``paths`` being a line for each job in the order given."""

    width: float
    height: float
    top: float
    bottom: float
    axes: list[Axis]
    paths: list[str]


def parallel(columns: Sequence[tuple[str, str, Sequence[Any]]], *, turned: bool) -> Parallel:
    """Axes and lines.

    Args:
        columns: short name, full name and a value for each job.
        turned: whether the last axis has its low end at the top, because less of it is better.
    """
    axes = []
    for number, (name, full_name, values) in enumerate(columns):
        axis = _axis(name, full_name, SIDE + GAP * number, values)
        axes.append(_turned(axis) if turned and number == len(columns) - 1 else axis)
    points = zip(*(axis.y for axis in axes), strict=True)
    width = 2 * SIDE + GAP * (len(axes) - 1)
    paths = [_path([(axis.x, y) for axis, y in zip(axes, heights, strict=True)]) for heights in points]
    return Parallel(width, TOP + HEIGHT + BOTTOM, TOP, TOP + HEIGHT, axes, paths)


def _axis(name: str, full_name: str, x: float, values: Sequence[Any]) -> Axis:
    numbers = [as_number(value) for value in values]
    if values and all(number is not None for number in numbers):
        return _of_numbers(name, full_name, x, [number for number in numbers if number is not None])
    texts = [value_text(value) for value in values]
    choices = sorted(set(texts))
    shares = {text: index / (len(choices) - 1) if len(choices) > 1 else 0.5 for index, text in enumerate(choices)}
    every = -(-len(choices) // MOST_LABELS)
    ticks = [Tick(_height(shares[text]), _clip(text)) for text in choices[::every]]
    return Axis(name, full_name, x, ticks, [_height(shares[text]) for text in texts], None, None, False)


def _of_numbers(name: str, full_name: str, x: float, numbers: Sequence[float]) -> Axis:
    low, high = min(numbers), max(numbers)
    logarithmic = low > 0 and high / low >= LONG_SPAN

    def share(number: float) -> float:
        if low == high:
            return 0.5
        return log10(number / low) / log10(high / low) if logarithmic else (number - low) / (high - low)

    ticks = [Tick(_height(share(mark)), f"{mark:.3g}") for mark in _marks(low, high, numbers, logarithmic)]
    return Axis(name, full_name, x, ticks, [_height(share(number)) for number in numbers], low, high, logarithmic)


def _marks(low: float, high: float, numbers: Sequence[float], logarithmic: bool) -> list[float]:
    """Where to write numbers: at both ends, and between at the values where there are few, else at round ones."""
    locator = LogLocator(subs=(1.0,)) if logarithmic else MaxNLocator(nbins=5)
    inner = sorted(set(numbers)) if len(set(numbers)) <= 5 else locator.tick_values(low, high)

    def apart(one: float, other: float) -> bool:
        return (log10(other / one) / log10(high / low) if logarithmic else (other - one) / (high - low)) > CLOSEST

    marks = [low]
    for mark in map(float, inner):
        if low < mark < high and apart(marks[-1], mark) and apart(mark, high):
            marks.append(mark)
    return [*marks, high] if high > low else marks


def _height(share: float) -> float:
    return round(TOP + HEIGHT * (1 - share), 2)


def _turned(axis: Axis) -> Axis:
    def turn(y: float) -> float:
        return round(2 * TOP + HEIGHT - y, 2)

    ticks = [Tick(turn(tick.y), tick.text) for tick in axis.ticks]
    return axis._replace(ticks=ticks, y=[turn(y) for y in axis.y], low=axis.high, high=axis.low)


def _path(points: Sequence[tuple[float, float]]) -> str:
    """A line through points that leaves each axis level, so that lines which meet there can be told apart."""
    pieces = [f"M{points[0][0]:g},{points[0][1]:g}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        bend = 0.35 * (x1 - x0)
        pieces.append(f"C{x0 + bend:g},{y0:g} {x1 - bend:g},{y1:g} {x1:g},{y1:g}")
    return "".join(pieces)


def _clip(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
