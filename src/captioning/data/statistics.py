"""What the data look like: how many, how large, how long, and a few of them to look at."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from captioning.data.rows import Rows

SAMPLES = 12


def summarize(
    rows: Rows, sizes: Sequence[tuple[int, int]], splits: Mapping[str, Sequence[int]], *, samples: int = SAMPLES
) -> dict[str, Any]:
    """The data in numbers and lists, fit for JSON, with samples of the first split that has any.

    ``sizes`` are the width and height of each image in pixels.
    """
    captions, ids = rows.captions, rows.ids
    statistics = {}
    for split, numbers in splits.items():
        if numbers:
            words = Counter(len(caption.split()) for row in numbers for caption in captions[row])
            widths, heights = zip(*(sizes[row] for row in numbers), strict=True)
            statistics[split] = {
                "images": len(numbers),
                "captions": sum(len(captions[row]) for row in numbers),
                "width": [min(widths), median(widths), max(widths)],
                "height": [min(heights), median(heights), max(heights)],
                "caption_words": {str(length): words[length] for length in sorted(words)},
            }
    sampled = next(iter(statistics), "")
    chosen = [(ids[row], captions[row]) for row in spread(splits.get(sampled, []), samples)]
    named = [{"split": sampled, "id": name, "captions": own} for name, own in chosen]
    return {"splits": statistics, "samples": named}


def spread(items: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the items, in even steps from the first to the last."""
    count = min(count, len(items))
    return [items[round(step * (len(items) - 1) / max(count - 1, 1))] for step in range(count)]
