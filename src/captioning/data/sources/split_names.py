"""Which split a word, a folder or a file stands for."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

GIVEN_SPLITS = {
    "train": "train",
    "training": "train",
    "restval": "train",  # Karpathy's: images of COCO's validation set that his splits train on
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


def split_of(value: Any) -> str | None:
    """``train``, ``val`` or ``test`` for any of the usual names of a split; None for any other value."""
    return GIVEN_SPLITS.get(value.strip().lower()) if isinstance(value, str) else None


def splits_of_files(names: Iterable[str], *, by_stem: bool = False) -> dict[str, str | None]:
    """The split of each file by the subfolder that it is in, such as ``train/a.png``.

    Only where two splits are found at least: a single folder ``train`` may hold images of trains.

    Args:
        names: of files, below the data folder.
        by_stem: whether a file may say it too, such as ``train-00000-of-00001.parquet``.
    """
    found = {name: _split_in(PurePosixPath(name), by_stem=by_stem) for name in names}
    if len(set(found.values()) - {None}) < 2:
        return dict.fromkeys(found)
    return found


def _split_in(name: PurePosixPath, *, by_stem: bool) -> str | None:
    words = [*name.parts[:-1], *(re.split(r"[^a-zA-Z]+", name.stem) if by_stem else ())]
    return next((split for split in map(split_of, words) if split), None)
