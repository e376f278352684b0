"""Which rows are for training, which choose the checkpoint, and which are only tested on at the end."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from captioning.errors import UserError

SPLITS = ("train", "val", "test")


def shuffled(rows: Iterable[int], ids: Sequence[str], *, seed: int) -> list[int]:
    """Row numbers in an order that depends on their ids and the seed alone, not on the machine or on other rows."""
    return sorted(rows, key=lambda row: blake2b(f"{seed}/{ids[row]}".encode()).digest())


def split_rows(
    ids: Sequence[str],
    given: Sequence[str | None],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> dict[str, list[int]]:
    """Row numbers of each split, ascending.

    A split that the data gives is kept. ``val`` and ``test`` that it doesn't give are cut from the rest. Which rows
    are cut depends on their ids and the seed alone, not on their order or the machine.

    Args:
        ids: the unique id of each row.
        given: the split that the data gives each row, or None.
        val_fraction: share of all rows for validation, where the data gives none.
        test_fraction: the same for the test split.
        seed: another seed cuts other rows.

    Raises:
        UserError: a split would be empty.
    """
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for index, split in enumerate(given):
        rows[split or "train"].append(index)
    pool = shuffled(rows["train"], ids, seed=seed)
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        if not rows[split]:
            count = max(1, round(fraction * len(ids)))
            rows[split], pool = sorted(pool[:count]), pool[count:]
    rows["train"] = sorted(pool)
    if empty := [split for split in SPLITS if not rows[split]]:
        raise UserError(
            f"{len(ids)} captioned pictures leave none for {' and '.join(empty)} "
            f"(data.val_fraction={val_fraction}, data.test_fraction={test_fraction}): use more pictures, or smaller "
            "fractions"
        )
    return rows
