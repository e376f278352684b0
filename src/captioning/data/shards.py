"""Data that come in shards, each read from its beginning to its end; and copies of them that are read in any order."""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock

from captioning.data.rows import Problem, Row, Rows, describe, row_features
from captioning.errors import UserError
from captioning.files import replacing

OPEN_SHARDS = 16  # at a time, for the head of a stream
VERSION = 2  # of the copies that are kept; those of another version aren't used

UNREADABLE = "shard can't be read to its end"
UNREADABLE_IMAGE = "image can't be read"

Report = Callable[[Problem], object]  # what is left out is told to it


@dataclass(frozen=True)
class Shards:
    """Parts of a data set that can each be read from its beginning to its end.

    Attributes:
        path: ``data.path``, for messages.
        labels: what each shard is called in ids and messages.
        fingerprint: another one where there are other shards, or files have changed.
        read: the rows of a shard, by its number, in their order and with their encoded images, as far as it can be
            read; what can't be used is reported and left out.
        problems: what is left out before any shard is read.
        splits: of each shard the split that all its rows are in, or None where only the rows say it; empty where that
            is so of all.
        local: whether all are files of this machine, so that what can't be read of them now can't be read later.
    """

    path: str
    labels: tuple[str, ...]
    fingerprint: str
    read: Callable[[int, Report], Iterator[Row]]
    problems: tuple[Problem, ...] = ()
    splits: tuple[str | None, ...] = ()
    local: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def for_training(self) -> list[int]:
        """The numbers of the shards that may have rows to train on."""
        return [index for index in range(len(self)) if not self.splits or self.splits[index] in (None, "train")]


def digest(*parts: Any) -> str:
    """A short name for what is the same only where all parts are."""
    return blake2b(repr((VERSION, *parts)).encode(), digest_size=16).hexdigest()


def is_file_name(name: str) -> bool:
    """Whether a name is of a file or folder on this machine, and no address (``https://…``) or command (``pipe:…``)."""
    return "://" not in name and not name.startswith("pipe:")


# ------------------------------------------------------------ as a table


def read_shards(shards: Shards, *, cache_dir: str | Path | None = None) -> Rows:
    """All rows of shards, copied once into a file on this disk, from which they can be read in any order.

    Args:
        shards: of which every one is read.
        cache_dir: where the copy is kept; beside the copies of ``datasets`` when not given. It is used again unless the
            shards' names, sizes or times have changed, or an address or a command failed while it was made.

    Raises:
        UserError: no usable row in the shards.
    """

    def rows(report: Report) -> Iterator[Row]:
        return chain.from_iterable(shards.read(index, report) for index in range(len(shards)))

    return _copied(rows, shards, f"all-{shards.fingerprint}", cache_dir)


def read_head(shards: Shards, count: int, *, cache_dir: str | Path | None = None) -> Rows:
    """The first ``count`` rows, taken in turn from the splits, and from shards that are spread evenly over each.

    Args:
        shards: of which at most ``OPEN_SHARDS`` are open at a time, and no more than that at all if they hold enough.
        count: how many rows; there are fewer where all shards together hold fewer.
        cache_dir: as for :func:`read_shards`.

    Raises:
        UserError: no usable row in the shards.
    """

    def rows(report: Report) -> Iterator[Row]:
        by_split: dict[str | None, list[int]] = {}
        for index, split in enumerate(shards.splits or [None] * len(shards)):
            by_split.setdefault(split, []).append(index)
        open_at_once = max(1, OPEN_SHARDS // max(len(by_split), 1))
        splits = [
            _in_turn((shards.read(index, report) for index in _spread(its, open_at_once)), open_at_once)
            for its in by_split.values()
        ]
        return _in_turn(splits, len(splits))

    return _copied(rows, shards, f"head-{count}-{shards.fingerprint}", cache_dir, count)


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """The same, with ``count`` that are spread evenly over them first."""
    first = dict.fromkeys(indices[place * len(indices) // count] for place in range(count))
    return [*first, *(index for index in indices if index not in first)]


def _in_turn(readers: Iterable[Iterator[Row]], open_at_once: int) -> Iterator[Row]:
    """A row of each reader in turn; where one has ended, the next that waits takes its place."""
    waiting = iter(readers)
    opened = deque(islice(waiting, open_at_once))
    while opened:
        reader = opened.popleft()
        row = next(reader, None)
        if row is not None:
            opened.append(reader)
            yield row
        else:
            opened.extend(islice(waiting, 1))


def _copied(
    rows: Callable[[Report], Iterable[Row]],
    shards: Shards,
    name: str,
    cache_dir: str | Path | None,
    count: int | None = None,
) -> Rows:
    """Rows by way of a file on this disk, which is made by one process and used by all."""
    import datasets

    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "captioning-shards").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    asked = time.time()
    with FileLock(folder / f"{name}.lock"):
        file = _known(folder, name, asked)
        if file is None:
            for earlier in folder.glob(f"{name}-*"):  # it lacks something, or was never finished
                earlier.unlink()
            part = folder / f"{name}-{uuid4().hex}.arrow"
            problems = _write(part, rows, shards, count)
            file = part if any(map(_may_pass, problems)) and not shards.local else folder / f"{name}.arrow"
            with replacing(_problems_of(file)) as problems_part:
                problems_part.write_text(json.dumps(problems))
            part.replace(file)
        table = datasets.Dataset.from_file(str(file))
        left_out = json.loads(_problems_of(file).read_text())
    ids = list(table["id"][:])
    in_order = table.select(sorted(range(len(ids)), key=ids.__getitem__))
    return Rows(in_order, tuple(Problem(*problem) for problem in left_out))


def _known(folder: Path, name: str, asked: float) -> Path | None:
    """The copy to use, if there is one.

    One that lacks what couldn't be read at the moment is only for the processes that train together: those that waited
    for it, and those that the first of them has started.
    """
    is_first = not _is_later_process()
    for file in (folder / f"{name}.arrow", *sorted(folder.glob(f"{name}-*.arrow"))):
        whole = file.name == f"{name}.arrow"
        if file.is_file() and _problems_of(file).is_file() and (whole or not is_first or file.stat().st_mtime >= asked):
            return file
    return None


def _is_later_process() -> bool:
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _problems_of(copy: Path) -> Path:
    return copy.with_suffix(".problems.json")


def _may_pass(problem: Problem) -> bool:
    """Whether it may be that of one moment: of an address or a command that failed."""
    return problem.kind.startswith((UNREADABLE, UNREADABLE_IMAGE))


def _write(
    file: Path, rows: Callable[[Report], Iterable[Row]], shards: Shards, count: int | None = None
) -> list[Problem]:
    """Writes the rows into an Arrow file; returns what was left out.

    Raises:
        UserError: there are none.
    """
    from datasets.arrow_writer import ArrowWriter
    from datasets.utils import tqdm

    problems = list(shards.problems)
    ids: set[str] = set()
    # Images are in memory until a batch of them is written.
    with (
        ArrowWriter(features=row_features(), path=str(file), writer_batch_size=100) as writer,
        tqdm(unit=" images", desc="Copying shards", total=count) as progress,
    ):
        for row in rows(problems.append):
            if row["id"] in ids:
                problems.append(Problem("id of an earlier row", row["id"]))
                continue
            ids.add(row["id"])
            writer.write(row)
            progress.update()
            if len(ids) == count:
                break
        if not ids:
            what = f": {describe(problems)}" if problems else ""
            raise UserError(f"data.path={shards.path}: no captioned image in its {len(shards)} shards{what}")
        writer.finalize()
    return problems
