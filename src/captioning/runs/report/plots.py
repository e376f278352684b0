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
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from captioning.runs.report.numbers import shown
from captioning.runs.run_folder import Series

# What matplotlib draws with, and what the page has in its place.
INK, FAINT, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404"
PAGE = {INK: "var(--muted)", FAINT: "var(--line)", FIRST: "var(--accent)", SECOND: "var(--second)"}
STYLE = {
    "svg.fonttype": "none",
    "path.simplify_threshold": 0.5,  # in pixels: of thousands of steps what the eye can tell apart
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
MEANS, MAX_MARKERS, MAX_BARS = 60, 40, 30
LONG_SPAN = 50  # a largest value over the median from which a scale is logarithmic
WIDE_SPAN = 8  # a largest image side over the smallest from which the scale is logarithmic


class Plot(NamedTuple):
    """A drawing, its alternative text, and notes below it."""

    svg: Markup
    alt: str
    notes: list[str]


def curves(lines: Mapping[str, Series], *, tested: float | None = None, size: str = "small") -> Plot:
    """Numbers over steps in one plot; a dense line is drawn thin with its mean, and the ``tested`` step is marked."""
    alt, notes, all_values = [], [], [np.zeros(0)]
    with rc_context(style(*lines)):
        figure, axes = new_figure(size)
        for (name, (steps, values)), color in zip(lines.items(), (FIRST, SECOND), strict=False):
            finite = np.isfinite(values)
            if not finite.all():
                count, first = (~finite).sum(), steps[~finite][0]
                notes.append(
                    f"{name}: {count:,} of {len(values):,} values aren't finite, the first at step {first:,.0f}."
                )
            if not finite.any():
                continue
            known = values[finite]
            all_values.append(known)
            first, last, lowest, highest = map(shown, (known[0], known[-1], known.min(), known.max()))
            alt.append(
                f"{name} goes from {first} at step {steps[finite][0]:,.0f} to {last} at step {steps[finite][-1]:,.0f}, "
                f"lowest {lowest}, highest {highest}"
            )
            values = np.where(finite, values, np.nan)
            if len(steps) <= 3 * MEANS:
                axes.plot(steps, values, color=color, label=name, marker="o" if len(steps) <= MAX_MARKERS else "")
                continue
            axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.4)
            stretches = zip(np.array_split(steps, MEANS), np.array_split(values, MEANS), strict=True)
            means = [(x.mean(), y[np.isfinite(y)].mean()) for x, y in stretches if np.isfinite(y).any()]
            axes.plot(*zip(*means, strict=True), color=color, label=name)
        if tested is not None:
            axes.axvline(tested, color=INK, linewidth=0.9, linestyle=(0, (2, 3)))
            alt.append(f"the tested checkpoint is of step {tested:,.0f}")
        every = np.concatenate(all_values)
        if len(every) and every.min() > 0 and every.max() > LONG_SPAN * np.median(every):
            axes.set_yscale("log")
            notes.append("The scale is logarithmic.")
        if len(ticks := {float(step) for series in lines.values() for step in series.steps}) == 1:
            axes.set_xticks(list(ticks))  # or ticks are fractions
        axes.set_xlabel("step")
        if len(lines) > 1:
            axes.legend(frameon=False, labelcolor=INK)
        return Plot(to_svg(figure, size), "; ".join(alt) or "no finite value", notes)


def caption_lengths(sides: Mapping[str, Sequence[int]], *, size: str = "small") -> Plot:
    """Captions by their number of words, in % where two kinds are compared; the last bar holds the longer ones."""
    longest = max(8, int(1.5 * max(np.quantile(words, 0.98) for words in sides.values())))
    step = -(-longest // MAX_BARS)
    last = step * (longest // step)
    edges = np.arange(-0.5, last + step, step).tolist()
    label = f"words; the last bar holds {last} and more"
    return _histogram(sides, edges, label, unit="words", size=size, in_percent=len(sides) > 1)


def image_sizes(widths: Sequence[int], heights: Sequence[int]) -> Plot:
    """Numbers of images by width and by height in pixels, on a logarithmic scale where they differ much."""
    low, high = min(*widths, *heights), max(*widths, *heights)
    logarithmic = high > WIDE_SPAN * low
    if high - low < MAX_BARS:  # or a bar would be less than a pixel wide
        low, high = max(1, low - MAX_BARS // 2), high + MAX_BARS // 2
    edges = (np.geomspace if logarithmic else np.linspace)(low, high + 1, MAX_BARS + 1).tolist()
    label = f"pixels{', on a logarithmic scale' if logarithmic else ''}"
    return _histogram({"width": widths, "height": heights}, edges, label, unit="pixels", logarithmic=logarithmic)


def _histogram(
    sides: Mapping[str, Sequence[int]],
    edges: list[float],
    label: str,
    *,
    unit: str,
    size: str = "small",
    in_percent: bool = False,
    logarithmic: bool = False,
) -> Plot:
    with rc_context(style(label)):
        figure, axes = new_figure(size)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        values = [np.minimum(numbers, edges[-1] - 0.5) for numbers in sides.values()]
        weights = [np.full(len(numbers), 100 / len(numbers) if in_percent else 1) for numbers in values]
        axes.hist(values, bins=edges, weights=weights, color=[FIRST, SECOND][: len(values)], rwidth=0.8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
        axes.set_xlabel(label)
        axes.grid(axis="x", visible=False)
        alt = "; ".join(
            f"{name}: {min(numbers):,} to {max(numbers):,} {unit}, {np.median(numbers):,.0f} in the median"
            for name, numbers in sides.items()
        )
        return Plot(to_svg(figure, size), alt, [])


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


def to_svg(figure: Figure, size: str) -> Markup:
    """The figure for a page, in the page's own colors and fonts."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Names that an HTML page doesn't need, or has once only, and a size that the page decides.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)
    tag = rf'<svg class="{size}" viewBox="\1" aria-hidden="true">'
    svg = re.sub(r'<svg .*?viewBox="([^"]*)".*?>', tag, svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for drawn, page in PAGE.items():
        svg = svg.replace(drawn, page)
    return Markup(svg)
