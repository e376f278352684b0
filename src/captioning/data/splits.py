"""Which rows are for training, which choose the checkpoint, and which are only tested on at the end."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from captioning.errors import UserError

SPLITS = ("train", "val", "test")


def shuffled(rows: Iterable[int], ids: Sequence[str], *, seed: int) -> list[int]:
    """Row numbers in an order that depends on their ids and the seed alone, not on the machine or on other rows."""
    return sorted(rows, key=lambda row: blake2b(f"{seed}/{ids[row]}".encode()).digest())


def split_rows(
    ids: Sequence[str],
    given: Sequence[str | None],
    *,
    together: Sequence[int] | None = None,
    strata: Sequence[str | None] | None = None,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> dict[str, list[int]]:
    """Row numbers of each split, ascending; they depend on the ids and the seed alone.

    A split that the data gives is kept. ``val`` and ``test`` that it doesn't give are cut from the rest, in whole
    clusters. Of a cluster with given validation or test rows, rows without a given split go to that side (to ``val``
    where there are both), and those given to ``train`` stay there. A split that is cut is never larger than its
    fraction, and smaller by less than the smallest cluster that is left to train on; it has about the same share of
    every stratum.

    ``ids`` are unique; ``given`` is the split that the data gives each row, or None; ``together`` is its cluster, as
    ``duplicates.clusters`` has it, by default its own; ``strata`` is its stratum, or None. Fractions are of all rows.

    Raises:
        UserError: a split would be empty.
    """
    together = range(len(ids)) if together is None else together
    strata = [None] * len(ids) if strata is None else strata
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    held_out = {together[row]: split for split in ("test", "val") for row, its in enumerate(given) if its == split}
    pool: dict[int, list[int]] = {}
    for row, split in enumerate(given):
        side = split or held_out.get(together[row])
        if side and (side != "train" or together[row] in held_out):
            rows[side].append(row)
        else:
            pool.setdefault(together[row], []).append(row)
    by_first = {min(cluster, key=lambda row: ids[row]): cluster for cluster in pool.values()}
    in_order = [by_first[row] for row in shuffled(by_first, ids, seed=seed)]
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        if not rows[split]:
            rows[split], in_order = _cut(in_order, max(1, round(fraction * len(ids))), strata)
    rows["train"] += [row for cluster in in_order for row in cluster]
    if empty := [split for split in SPLITS if not rows[split]]:
        sets = len(set(together))
        whole, way_out = "", "use more images, or smaller fractions"
        if sets < len(ids):
            whole = f", of which some look the same or are of one group, and stay together ({sets} sets),"
            way_out += ", or data.near_duplicates=false to let near-duplicates be on two sides"
        raise UserError(
            f"{len(ids)} captioned image{'s' * (len(ids) != 1)}{whole} leave none for {' and '.join(empty)} "
            f"(data.val_fraction={val_fraction}, data.test_fraction={test_fraction}): {way_out}"
        )
    return {split: sorted(rows[split]) for split in SPLITS}


def leaks(splits: Mapping[str, Sequence[int]], together: Sequence[int]) -> list[tuple[int, int]]:
    """Rows of one cluster on two sides, which is only possible where the data give them their splits.

    For each validation or test row whose cluster is on another side too, the first row there and itself.
    """
    found = []
    first: dict[int, int] = {}
    for rows in (splits.get(split, ()) for split in SPLITS):
        found += [(first[together[row]], row) for row in rows if together[row] in first]
        first = {together[row]: row for row in reversed(rows)} | first
    return sorted(found, key=lambda pair: pair[1])


def read_given_splits(path: str) -> dict[str, str]:
    """The split of each id in the ``splits.json`` of an earlier run, given that file or the run folder.

    Raises:
        UserError: it can't be read, isn't of that form, or has an id in two splits.
    """
    file = Path(path, "splits.json") if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else f"not JSON ({error})"
        raise UserError(f"data.splits_from={path}: {problem}; name a run folder or its splits.json") from error
    if not (isinstance(content, dict) and content.keys() <= set(SPLITS)) or not all(
        isinstance(ids, list) and all(type(one) is str for one in ids) for ids in content.values()
    ):
        raise UserError(
            f'data.splits_from={path}: not of the form {{"train": [ids], "val": [ids], "test": [ids]}}; name the run '
            "folder of a training, or its splits.json"
        )
    split_of: dict[str, str] = {}
    for split, name in ((split, name) for split, ids in content.items() for name in ids):
        if split_of.setdefault(name, split) != split:
            raise UserError(f"data.splits_from={path}: {name!r} is in {split_of[name]} and in {split}; keep one")
    return split_of


def _cut(clusters: list[list[int]], count: int, strata: Sequence[str | None]) -> tuple[list[int], list[list[int]]]:
    """As many of the first clusters as fit into ``count`` rows, each stratum with its share; and those left."""
    sizes = Counter(strata[row] for cluster in clusters for row in cluster)
    # The shares in whole numbers, by the largest remainders.
    total, count = sizes.total(), min(count, sizes.total())
    wanted = Counter({name: count * size // total for name, size in sizes.items()})
    by_remainder = sorted(sizes, key=lambda name: (-(count * sizes[name] % total), name is not None, name or ""))
    wanted.update(by_remainder[: count - wanted.total()])
    cut: list[int] = []
    for by_stratum in (True, False):  # what whole clusters leave open of the shares, any that fit may fill
        left = []
        for number, cluster in enumerate(clusters):
            if len(cut) == count:
                left += clusters[number:]
                break
            sizes = Counter(strata[row] for row in cluster)
            nearer = sum(abs(wanted[name] - sizes[name]) - abs(wanted[name]) for name in sizes) < 0
            if len(cut) + len(cluster) <= count and (nearer or not by_stratum):
                cut += cluster
                wanted.subtract(sizes)
            else:
                left.append(cluster)
        clusters = left
    if not cut and clusters:
        cut = min(clusters, key=len)
        clusters = [cluster for cluster in clusters if cluster is not cut]
    return cut, clusters
