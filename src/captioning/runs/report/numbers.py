"""The metrics of a run as rows of a table, and how numbers are written."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

from captioning.metrics.metric_info import HIGHER_IS_BETTER, METRIC_INFO, MetricInfo

HEADLINES = ("wer", "cider", "bleu4", "exact_match")


class MetricRow(NamedTuple):
    """A row of the table of metrics."""

    name: str
    info: MetricInfo
    better: str
    test: float | None
    interval: tuple[float, float] | None
    val: float | None
    note: str


def metric_rows(metrics: Mapping[str, Any]) -> list[MetricRow]:
    """A row for each test metric that a run has, in a fixed order; its note is the reason where it isn't finite."""
    names = [key[5:] for key in metrics if key.startswith("test/") and not key.endswith("_ci95")]
    rows = []
    for name in sorted(names, key=[*METRIC_INFO, *names].index):
        higher = HIGHER_IS_BETTER.get(name)
        interval = metrics.get(f"test/{name}_ci95")
        values = {key: metrics[key] for key in (f"test/{name}", f"val/{name}") if key in metrics}
        reasons = {key: f"{value}, not a number" for key, value in values.items() if finite(value) is None}
        reasons |= {key: why for key, why in metrics.get("notes", {}).items() if key in reasons}
        rows.append(
            MetricRow(
                name=name,
                info=METRIC_INFO.get(name, MetricInfo(name, "", None)),
                better="higher" if higher else "lower" if higher is False else "nearer to 1" * (name == "length_ratio"),
                test=finite(metrics[f"test/{name}"]),
                interval=(interval[0], interval[1]) if interval else None,
                val=finite(metrics.get(f"val/{name}")),
                note="; ".join(f"{key}: {why}" for key, why in reasons.items()),
            )
        )
    return rows


def numbers_of_split(facts: Mapping[str, Any]) -> dict[str, str]:
    """A split of the data in words: where there are three numbers, the smallest, the median and the largest."""
    lengths = sorted(int(words) for words, count in facts["caption_words"].items() for _ in range(count))
    triples = {
        "Width, pixels": facts["width"],
        "Height, pixels": facts["height"],
        "Words a caption": (lengths[0], lengths[len(lengths) // 2], lengths[-1]),
    }
    row = {"Images": f"{facts['images']:,}", "Captions": f"{facts['captions']:,}"}
    return row | {name: " / ".join(f"{number:,.0f}" for number in triple) for name, triple in triples.items()}


def shown(value: float | None) -> str:
    """A number in few digits."""
    if value is None:
        return "\N{EN DASH}"
    if 0 < value < 0.0005:
        return "<0.001"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None:
        return "\N{EN DASH}"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24:,} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def finite(value: object) -> float | None:
    """A number that can be shown, drawn and compared; None for anything else."""
    return value if isinstance(value, (int, float)) and isfinite(value) else None
