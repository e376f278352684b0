"""What a stream must not train on, because it is validated or tested on."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from PIL import Image

from captioning.data.cache import ImageInfo
from captioning.data.duplicates import is_near_duplicate
from captioning.data.rows import Row, Rows


@dataclass(frozen=True)
class LeakageFilter:
    """Rows of validation and test, and whatever is too close to one of them."""

    ids: frozenset[str]
    groups: frozenset[str]
    hashes: np.ndarray | None  # None: near-duplicates don't matter

    @classmethod
    def of(cls, rows: Rows, infos: Sequence[ImageInfo], further: Set[str], *, near_duplicates: bool) -> "LeakageFilter":
        """For the rows that are held out, and ``further`` ids of which nothing else is known."""
        joined = b"".join(info.perceptual_hash for info in infos)
        hashes = np.frombuffer(joined, np.uint8).reshape(len(infos), -1) if near_duplicates else None
        return cls(frozenset(rows.ids) | further, frozenset(rows.column("group")) - {None}, hashes)

    def matches_row(self, row: Row) -> bool:
        """Whether the row is held out, or of the group of one that is: known without its image."""
        return row["id"] in self.ids or row["group"] in self.groups

    def matches_image(self, image: Image.Image) -> bool:
        """Whether the image is a near-duplicate of one that is held out."""
        return self.hashes is not None and is_near_duplicate(image, self.hashes)
