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
    """The data in plain numbers and lists, fit for JSON.

    Args:
        rows: all images.
        sizes: width and height of each, in pixels.
        splits: row numbers of each split.
        samples: how many images to name, spread over the first split that has any.
    """
    captions = rows.captions
    ids = rows.ids
    sampled = next((split for split in splits if splits[split]), None)
    return {
        "splits": {
            split: _summary([captions[row] for row in numbers], [sizes[row] for row in numbers])
            for split, numbers in splits.items()
            if numbers
        },
        "samples": [
            {"split": sampled, "id": ids[row], "captions": captions[row]}
            for row in (spread(splits[sampled], samples) if sampled else [])
        ],
    }


def spread(items: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the items, in even steps from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(step * (len(items) - 1) / max(count - 1, 1))] for step in range(count)]


def _summary(captions: Sequence[Sequence[str]], sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    words = Counter(len(caption.split()) for of_image in captions for caption in of_image)
    widths, heights = zip(*sizes, strict=True)
    return {
        "images": len(captions),
        "captions": sum(map(len, captions)),
        "width": [min(widths), median(widths), max(widths)],
        "height": [min(heights), median(heights), max(heights)],
        "caption_words": {str(length): words[length] for length in sorted(words)},
    }
