"""Plots of a sweep: the monitored number of the jobs over the values of one setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from captioning.runs.report.numbers import shown
from captioning.runs.report.plots import FIRST, SECOND, Plot, new_figure, style, to_svg
from captioning.sweeps.importance import as_number
from captioning.sweeps.parallel import LONG_SPAN
from captioning.sweeps.report import value_text

MOST_CHOICES, LONGEST_CHOICE = 6, 12


def scores_over(name: str, values: Sequence[Any], scores: Sequence[float], *, monitor: str) -> Plot:
    """A dot for each job, the first of which, the best, is drawn in another color and form.

    Args:
        name: the setting.
        values: its value in each job.
        scores: the monitored number of each job.
        monitor: what that number is called.
    """
    numbers = [as_number(value) for value in values]
    known = [number for number in numbers if number is not None]
    with rc_context(style("scores over", name)):
        figure, axes = new_figure("small")
        if len(known) == len(values):
            places = np.asarray(known)
            alt = f"{name} from {min(known):.4g} to {max(known):.4g}"
            _scale(axes, known)
        else:
            texts = [value_text(value) for value in values]
            choices = sorted(set(texts))
            places = np.asarray([float(choices.index(text)) for text in texts])
            alt = f"{name} of {', '.join(choices)}"
            _name(axes, choices)
        axes.plot(places[1:], scores[1:], "o", color=FIRST, alpha=0.6, linestyle="")
        axes.plot(places[:1], scores[:1], "D", color=SECOND, markersize=6, linestyle="")
        axes.set_xlabel(name)
        best = f"the best, {shown(scores[0])}, at {value_text(values[0])}"
        return Plot(to_svg(figure, "small"), f"{monitor} over {alt}; {best}", [])


def _scale(axes: Axes, numbers: Sequence[float]) -> None:
    low, high = min(numbers), max(numbers)
    if low > 0 and high / low >= LONG_SPAN:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(set(numbers)) <= MOST_CHOICES:
        axes.set_xticks(sorted(set(numbers)))


def _name(axes: Axes, choices: Sequence[str]) -> None:
    every = -(-len(choices) // MOST_CHOICES)
    shown_choices = [c if len(c) <= LONGEST_CHOICE else f"{c[: LONGEST_CHOICE - 1]}…" for c in choices[::every]]
    axes.set_xticks(range(0, len(choices), every), shown_choices, parse_math=False)
    axes.set_xlim(-0.5, len(choices) - 0.5)
