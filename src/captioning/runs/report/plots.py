"""Plots as inline SVG that takes its colors and its font from the page around it, in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from captioning.metrics.metric import FloatArray
from captioning.runs.report.numbers import shown
from captioning.runs.run_folder import Series

# What matplotlib draws with, and what the page has in its place.
INK, FAINT, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404"
PAGE = {INK: "var(--muted)", FAINT: "var(--line)", FIRST: "var(--accent)", SECOND: "var(--second)"}
STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-4, 5),
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}
SIZES = {"small": (320, 190), "wide": (680, 200)}  # in CSS pixels where the plot has its natural size
STRETCHES, MEANS, MOST_MARKERS, MOST_BARS = 480, 60, 40, 60
LONG_SPAN = 50  # a largest value over the median from which a scale is logarithmic


class Plot(NamedTuple):
    """A drawing, what it says to those who don't see it, and what has to be said below it."""

    svg: Markup
    alt: str
    notes: list[str]


def curves(lines: Mapping[str, Series], *, tested: float | None = None, size: str = "small") -> Plot:
    """Numbers over steps in one plot, the first line in the strong color; a dense one is drawn thin with its mean.

    Args:
        lines: name to series; one that has no finite value is only mentioned.
        tested: the step of the checkpoint that was tested, marked where it is known.
        size: ``small`` or ``wide``.
    """
    alt, notes, finite_values = [], [], []
    with rc_context(style(*lines)):
        figure, axes = new_figure(size)
        for (name, series), color in zip(lines.items(), (FIRST, SECOND), strict=False):
            finite = np.isfinite(series.values)
            if not finite.all():
                count, first = (~finite).sum(), series.steps[~finite][0]
                notes.append(
                    f"{name}: {count:,} of {len(finite):,} values aren't finite, the first at step {first:,.0f}."
                )
            if not finite.any():
                continue
            finite_values.append(series.values[finite])
            alt.append(_in_words(name, series.steps[finite], series.values[finite]))
            _draw(axes, name, series, color)
        if tested is not None:
            axes.axvline(tested, color=INK, linewidth=0.9, linestyle=(0, (2, 3)))
            alt.append(f"the tested checkpoint is of step {tested:,.0f}")
        values = np.concatenate(finite_values) if finite_values else np.zeros(1)
        if values.min() > 0 and values.max() > LONG_SPAN * np.median(values):
            axes.set_yscale("log")
            notes.append("The scale is logarithmic.")
        axes.set_xlabel("step")
        if len(lines) > 1:
            axes.legend(frameon=False, labelcolor=INK)
        return Plot(to_svg(figure, size), "; ".join(alt) or "no finite value", notes)


def lengths(predictions: Sequence[int], references: Sequence[int]) -> Plot:
    """Shares of captions by their number of words; the last bar holds the longer ones."""
    sides = {"predictions": np.asarray(predictions), "references": np.asarray(references)}
    longest = max(8, int(1.5 * max(np.quantile(counts, 0.98) for counts in sides.values())))
    step = -(-longest // MOST_BARS)
    last = longest // step
    with rc_context(style("lengths")):
        figure, axes = new_figure("wide")
        axes.grid(axis="x", visible=False)
        for counts, color, shift in zip(sides.values(), (FIRST, SECOND), (-0.2, 0.2), strict=True):
            shares = np.bincount(np.minimum(counts // step, last), minlength=last + 1) / len(counts)
            axes.bar(step * (np.arange(last + 1) + shift), 100 * shares, width=0.4 * step, color=color)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(f"words{f', in steps of {step}' * (step > 1)}; the last bar holds {step * last} and more")
        spread = [
            f"{name} have {counts.min():,} to {counts.max():,} words, {np.median(counts):,.0f} in the median"
            for name, counts in sides.items()
        ]
        return Plot(to_svg(figure, "wide"), "; ".join(spread), [])


def _in_words(name: str, steps: FloatArray, values: FloatArray) -> str:
    first, last, lowest, highest = map(shown, (values[0], values[-1], values.min(), values.max()))
    return (
        f"{name} goes from {first} at step {steps[0]:,.0f} to {last} at step {steps[-1]:,.0f}, "
        f"lowest {lowest}, highest {highest}"
    )


def style(*names: str) -> Any:
    """Matplotlib's settings for a plot of what is named."""
    # What ids are made from: the same run gives the same page, and no two plots of it share an id.
    return {**STYLE, "svg.hashsalt": " ".join(names)}


def new_figure(size: str) -> tuple[Figure, Axes]:
    """A figure of one of ``SIZES``, with room for its labels."""
    width, height = SIZES[size]
    figure = Figure(figsize=(width / 72, height / 72))
    # Room for the labels, and the same in every plot; finding the least that would do takes as long as drawing.
    figure.subplots_adjust(left=46 / width, right=1 - 8 / width, bottom=38 / height, top=1 - 14 / height)
    return figure, figure.add_subplot()


def _draw(axes: Axes, name: str, series: Series, color: str) -> None:
    thin = thinned(series)
    values = np.where(np.isfinite(thin.values), thin.values, np.nan)
    if len(series.steps) <= 3 * MEANS:
        axes.plot(thin.steps, values, color=color, label=name, marker="o" if len(values) <= MOST_MARKERS else "")
        return
    axes.plot(thin.steps, values, color=color, linewidth=0.7, alpha=0.4)
    axes.plot(*_means(series), color=color, label=name)


def thinned(series: Series) -> Series:
    """Some 1,400 points at most: of each of 480 stretches the lowest, the highest and the first that isn't finite."""
    if len(series.steps) <= 2 * STRETCHES:
        return series
    kept: set[int] = {0, len(series.steps) - 1}
    for part in np.array_split(np.arange(len(series.steps)), STRETCHES):
        finite = part[np.isfinite(series.values[part])]
        if len(finite):
            kept |= {int(finite[series.values[finite].argmin()]), int(finite[series.values[finite].argmax()])}
        if len(finite) < len(part):
            kept.add(int(part[~np.isfinite(series.values[part])][0]))
    index = sorted(kept)
    return Series(series.steps[index], series.values[index])


def _means(series: Series) -> tuple[list[float], list[float]]:
    steps, means = [], []
    for part in np.array_split(np.arange(len(series.steps)), MEANS):
        finite = part[np.isfinite(series.values[part])]
        steps.append(float(series.steps[part].mean()))
        means.append(float(series.values[finite].mean()) if len(finite) else np.nan)
    return steps, means


def to_svg(figure: Figure, size: str) -> Markup:
    """The figure for a page, in the page's own colors and fonts."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Names that an HTML page doesn't need, or has once only, and a size that the page decides.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)
    svg = re.sub(
        r'<svg .*?viewBox="([^"]*)".*?>',
        rf'<svg class="{size}" viewBox="\1" aria-hidden="true">',
        svg,
        count=1,
        flags=re.DOTALL,
    )
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for drawn, page in PAGE.items():
        svg = svg.replace(drawn, page)
    return Markup(svg)
