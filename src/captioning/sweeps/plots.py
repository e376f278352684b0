"""The scores of a sweep's jobs over the values of one setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.ticker import NullFormatter

from captioning.runs.report.numbers import shown
from captioning.runs.report.plots import FIRST, SECOND, Plot, new_figure, style, to_svg
from captioning.sweeps.report import JobResult, is_number, value_text

MAX_TICKS, MAX_TICK_LENGTH = 6, 12
LONG_SPAN = 20  # largest / smallest value from which an axis is logarithmic


def scores_over(name: str, values: Sequence[Any], jobs: Sequence[JobResult], *, monitor: str) -> Plot:
    """A dot for each job, over its value of a setting; the best one, the first, has another color and marker."""
    scores = [job.score or 0.0 for job in jobs]
    with rc_context(style("scores over", name)):
        figure, axes = new_figure("small")
        if all(map(is_number, values)):
            places = [float(value) for value in values]
            low, high = min(places), max(places)
            alt = f"{name} from {low:.4g} to {high:.4g}"
            if low > 0 and high / low >= LONG_SPAN:
                axes.set_xscale("log")
                axes.xaxis.set_minor_formatter(NullFormatter())
            elif len(set(places)) <= MAX_TICKS:
                axes.set_xticks(sorted(set(places)))
        else:
            texts = [value_text(value) for value in values]
            choices = sorted(set(texts))
            places = [float(choices.index(text)) for text in texts]
            alt = f"{name} of {', '.join(choices)}"
            every = -(-len(choices) // MAX_TICKS)
            labels = [c if len(c) <= MAX_TICK_LENGTH else f"{c[: MAX_TICK_LENGTH - 1]}…" for c in choices[::every]]
            axes.set_xticks(range(0, len(choices), every), labels, parse_math=False)
            axes.set_xlim(-0.5, len(choices) - 0.5)
        axes.plot(places[1:], scores[1:], "o", color=FIRST, alpha=0.6, linestyle="")
        axes.plot(places[:1], scores[:1], "D", color=SECOND, markersize=6, linestyle="")
        axes.set_xlabel(name)
        best = f"the best, {shown(scores[0])}, at {value_text(values[0])}"
        return Plot(to_svg(figure, "small"), f"{monitor} over {alt}; {best}", [])
