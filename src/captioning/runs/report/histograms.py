"""How long captions are and how large images are, as plots for a page."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from captioning.runs.report.plots import FIRST, SECOND, Plot, new_figure, style, to_svg

BARS = 30
WIDE_SPAN = 8  # a largest side over the smallest from which the scale is logarithmic


def caption_lengths(counts: Mapping[int, int]) -> Plot:
    """Numbers of captions by their number of words; the last bar holds the longer ones.

    Args:
        counts: how many captions have so many words.
    """
    words = np.repeat(list(counts), list(counts.values()))
    longest = max(8, int(1.5 * np.quantile(words, 0.98)))
    step = -(-longest // BARS)
    last = longest // step
    heights = np.bincount(np.minimum(words // step, last), minlength=last + 1)
    with rc_context(style("caption lengths")):
        figure, axes = new_figure("small")
        axes.bar(step * np.arange(last + 1), heights, width=0.8 * step, color=FIRST)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        rest = f"; the last bar holds {step * last} and more" if words.max() > step * last else ""
        axes.set_xlabel(f"words{f', in steps of {step}' * (step > 1)}{rest}")
        _count_upwards(axes)
        alt = f"captions have {words.min():,} to {words.max():,} words, {np.median(words):,.0f} in the median"
        return Plot(to_svg(figure, "small"), alt, [])


def image_sizes(widths: Sequence[int], heights: Sequence[int]) -> Plot:
    """Numbers of images by width and by height in pixels, on a logarithmic scale where they differ much."""
    sides = {"width": np.asarray(widths), "height": np.asarray(heights)}
    every = np.concatenate(list(sides.values()))
    low, high = int(every.min()), int(every.max())
    logarithmic = high > WIDE_SPAN * low
    if high - low < BARS:  # or a bar would be less than a pixel wide
        low, high = max(1, low - BARS // 2), high + BARS // 2
    edges = np.geomspace(low, high + 1, BARS + 1) if logarithmic else np.linspace(low, high + 1, BARS + 1)
    with rc_context(style("image sizes")):
        figure, axes = new_figure("small")
        for (name, pixels), color, shift in zip(sides.items(), (FIRST, SECOND), (0.08, 0.5), strict=True):
            counts, _ = np.histogram(pixels, edges)
            span = np.diff(edges)
            axes.bar(edges[:-1] + shift * span, counts, width=0.42 * span, align="edge", color=color, label=name)
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda pixels, _: f"{pixels:,.0f}"))
        axes.set_xlabel(f"pixels{', on a logarithmic scale' * logarithmic}")
        _count_upwards(axes)
        alt = "; ".join(
            f"{name} from {pixels.min():,} to {pixels.max():,} pixels, {np.median(pixels):,.0f} in the median"
            for name, pixels in sides.items()
        )
        return Plot(to_svg(figure, "small"), alt, [])


def _count_upwards(axes: Axes) -> None:
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
