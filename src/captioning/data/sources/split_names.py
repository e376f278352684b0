"""Which split a word, a folder or a file stands for."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

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


def split_of(value: object) -> str | None:
    """``train``, ``val`` or ``test`` for any of the usual names of a split; None for any other value."""
    return GIVEN_SPLITS.get(value.strip().lower()) if isinstance(value, str) else None


def splits_of_files(names: Iterable[str], *, by_stem: bool = False) -> dict[str, str | None]:
    """The split of each file by the subfolder that it is in, such as ``train/a.png``.

    Only where two splits are found at least: a single folder ``train`` may hold images of trains. ``by_stem``: a file's
    name may say it too, such as ``train-00000-of-00001.parquet``.
    """
    found: dict[str, str | None] = {}
    for name in names:
        path = PurePosixPath(name)
        words = [*path.parts[:-1], *(re.split(r"[^a-zA-Z]+", path.stem) if by_stem else ())]
        found[name] = next(filter(None, map(split_of, words)), None)
    return found if len(set(found.values()) - {None}) > 1 else dict.fromkeys(found)
