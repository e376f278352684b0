"""The numbers of a run in words: what each is, its range, which way is better, and why one may be missing."""

from collections import Counter
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple

from captioning.metrics import HIGHER_IS_BETTER
from captioning.metrics.metric_info import METRIC_INFO, MetricInfo

HEADLINES = ("wer", "cider", "bleu4", "exact_match")


class Number(NamedTuple):
    """A row of the table of numbers."""

    name: str
    meaning: MetricInfo
    better: str
    test: float | None
    interval: tuple[float, float] | None
    val: float | None
    note: str

    @property
    def span(self) -> dict[str, float] | None:
        """The interval in percent of the range, for an image of it; None where nothing sensible can be drawn."""
        top = self.meaning.top or 1
        if self.interval is None or self.test is None or not 0 <= self.interval[0] <= self.interval[1] <= top:
            return None
        low, high, at = (100 * value / top for value in (*self.interval, self.test))
        return {"low": low, "width": high - low, "at": at}


def number_rows(metrics: Mapping[str, Any], *, images: int | None) -> list[Number]:
    """A row for each number that a test can have, and for any other that this one had."""
    others = [key[5:] for key in metrics if key.startswith("test/") and not key.endswith("_ci95")]
    names = [*METRIC_INFO, *(name for name in others if name not in METRIC_INFO)]
    return [_row(name, metrics, images) for name in names]


def _row(name: str, metrics: Mapping[str, Any], images: int | None) -> Number:
    interval = metrics.get(f"test/{name}_ci95")
    better = {True: "higher", False: "lower", None: "nearer to 1" if name == "length_ratio" else ""}
    return Number(
        name=name,
        meaning=METRIC_INFO.get(name, MetricInfo(name, "", None)),
        better=better[HIGHER_IS_BETTER.get(name)],
        test=finite(metrics.get(f"test/{name}")),
        interval=(interval[0], interval[1]) if interval else None,
        val=finite(metrics.get(f"val/{name}")),
        note="; ".join(_notes(name, metrics, images)),
    )


def _notes(name: str, metrics: Mapping[str, Any], images: int | None) -> Iterator[str]:
    """Why a value isn't there, or isn't what it seems."""
    reasons = metrics.get("notes", {})
    for key in (f"test/{name}", f"val/{name}"):
        if key in metrics and finite(metrics[key]) is None:
            yield f"{key}: {reasons.get(key, f'{metrics[key]}, which is no number')}"
    if f"test/{name}" not in metrics:
        unknown = "the training captions weren't known" if name == "copied_captions" else "this run didn't measure it"
        yield f"no test number: {unknown}"
    elif f"test/{name}_ci95" not in metrics and finite(metrics[f"test/{name}"]) is not None:
        yield f"no interval: {'one image tells none' if images == 1 else 'this number is not resampled'}"
    if name == "cider" and images == 1:
        yield "of one image CIDEr-D is 0 whatever the caption"
    if f"val/{name}" not in metrics and any(key.startswith("val/") for key in metrics):
        yield "validation didn't measure it"


def numbers_of_split(facts: Mapping[str, Any]) -> dict[str, str]:
    """A split of the data in words: where there are three numbers, the smallest, the median and the largest."""
    lengths = sorted(Counter({int(words): count for words, count in facts["caption_words"].items()}).elements())
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
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days:,} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


def finite(value: Any) -> float | None:
    """A number that can be shown, drawn and compared; None for anything else."""
    return value if isinstance(value, (int, float)) and isfinite(value) else None
