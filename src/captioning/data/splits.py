"""Which rows are for training, which choose the checkpoint, and which are only tested on at the end."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

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
    """Row numbers of each split, ascending.

    A split that the data gives is kept. ``val`` and ``test`` that it doesn't give are cut from the rest, in whole
    clusters. Which are cut depends on the ids and the seed alone, not on the order of rows or the machine.

    The rest of a cluster with given validation or test rows isn't cut: rows without a given split go to that side
    (to ``val`` where there are both, which leaves a test set what it was), those given to ``train`` stay there.

    A split that is cut is never larger than its fraction, and smaller by less than the smallest cluster that is left
    to train on. So a cluster larger than a split is trained on; only where all are, the smallest one is the split.

    Args:
        ids: the unique id of each row.
        given: the split that the data gives each row, or None.
        together: the number of each row's cluster, as ``duplicates.clusters`` has it; by default each row is its own.
        strata: the stratum of each row, or None; each split that is cut gets the same share of every stratum, as near
            as whole rows and clusters allow.
        val_fraction: share of all rows for validation, where the data gives none.
        test_fraction: the same for the test split.
        seed: another seed cuts other rows.

    Raises:
        UserError: a split would be empty.
    """
    together = range(len(ids)) if together is None else together
    strata = [None] * len(ids) if strata is None else strata
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    held_out = {together[row]: split for split in ("test", "val") for row, its in enumerate(given) if its == split}
    pool: dict[int, list[int]] = {}
    for row, split in enumerate(given):
        if split is None and together[row] in held_out:
            rows[held_out[together[row]]].append(row)
        elif split in ("val", "test") or together[row] in held_out:
            rows[split or "train"].append(row)
        else:
            pool.setdefault(together[row], []).append(row)
    in_order = _in_order(pool.values(), ids, seed=seed)
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

    Args:
        splits: the row numbers of each split.
        together: the number of each row's cluster.

    Returns:
        For each validation or test row whose cluster is on another side too, the first row there and itself:
        the training row where there is one, and for a test row else the validation row. Ascending by the latter.
    """
    found = []
    first: dict[int, int] = {}
    for split in SPLITS:
        found += [(first[together[row]], row) for row in splits.get(split, ()) if together[row] in first]
        for row in splits.get(split, ()):
            first.setdefault(together[row], row)
    return sorted(found, key=lambda pair: pair[1])


class GivenSplits(NamedTuple):
    """An earlier run's splits, on the rows of today's data."""

    given: list[str | None]  # of each row; None: it isn't named
    absent: list[str]  # ids that are named, but not in the data; sorted
    unnamed: list[str]  # ids of the data that aren't named; in the order of the data
    held_out: frozenset[str]  # ids of its val and test, in the data or not


def read_given_splits(path: str, ids: Sequence[str]) -> GivenSplits:
    """The split that ``splits.json`` of an earlier run gives each row.

    Args:
        path: the run folder, or the file: ``{"train": [id, ...], "val": [...], "test": [...]}``.
        ids: the unique id of each row.

    Raises:
        UserError: it can't be read, isn't of that form, has an id in two splits, or none of ``ids``.
    """
    split_of = _split_of_ids(path)
    if not any(name in split_of for name in ids):
        raise UserError(f"data.splits_from={path}: names none of the {len(ids)} images; is it of other data?")
    given = [split_of.get(name) for name in ids]
    unnamed = [name for name, split in zip(ids, given, strict=True) if split is None]
    held_out = frozenset(name for name, split in split_of.items() if split != "train")
    return GivenSplits(given, sorted(split_of.keys() - set(ids)), unnamed, held_out)


def _split_of_ids(path: str) -> dict[str, str]:
    file = Path(path, "splits.json") if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"data.splits_from={path}: no {file}; name a run folder or its splits.json") from error
    except OSError as error:
        raise UserError(f"data.splits_from={path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"data.splits_from={path}: not JSON ({error}); name a run folder or its splits.json") from error
    if not (isinstance(content, dict) and content.keys() <= set(SPLITS) and _all_lists_of_ids(content)):
        raise UserError(
            f'data.splits_from={path}: not of the form {{"train": [ids], "val": [ids], "test": [ids]}}; name the run '
            "folder of a training, or its splits.json"
        )
    split_of: dict[str, str] = {}
    for split, names in content.items():
        for name in names:
            if split_of.setdefault(name, split) != split:
                raise UserError(f"data.splits_from={path}: {name!r} is in {split_of[name]} and in {split}; keep one")
    return split_of


def _all_lists_of_ids(content: Mapping[str, object]) -> bool:
    return all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in content.values())


def _in_order(clusters: Iterable[list[int]], ids: Sequence[str], *, seed: int) -> list[list[int]]:
    """The clusters as ``shuffled`` orders the smallest id of each."""
    by_first = {min(cluster, key=lambda row: ids[row]): cluster for cluster in clusters}
    return [by_first[row] for row in shuffled(by_first, ids, seed=seed)]


def _cut(clusters: list[list[int]], count: int, strata: Sequence[str | None]) -> tuple[list[int], list[list[int]]]:
    """As many of the first clusters as fit into ``count`` rows, each stratum with its share; and those left."""
    wanted = _shares(Counter(strata[row] for cluster in clusters for row in cluster), count)
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


def _shares(sizes: Counter[str | None], count: int) -> Counter[str | None]:
    """``count`` divided in the proportion of ``sizes`` into whole numbers, by the largest remainders."""
    total = sizes.total()
    count = min(count, total)
    shares = Counter({name: count * size // total for name, size in sizes.items()})
    by_remainder = sorted(sizes, key=lambda name: (-(count * sizes[name] % total), name is not None, name or ""))
    shares.update(by_remainder[: count - shares.total()])
    return shares
