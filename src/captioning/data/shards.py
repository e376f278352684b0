"""Shards, each read from its beginning to its end, and copies of them that are read in any order."""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path

from filelock import FileLock

from captioning.data.rows import Row, RowIssue, Rows, describe, row_features
from captioning.errors import UserError
from captioning.files import replacing

OPEN_SHARDS = 16  # at a time, for the head of a stream
VERSION = 3  # of the copies that are kept; those of another version aren't used

UNREADABLE = "shard can't be read to its end"
UNREADABLE_IMAGE = "image can't be read"

Report = Callable[[RowIssue], object]  # called with what is left out


@dataclass(frozen=True)
class Shards:
    """Parts of a data set that can each be read from beginning to end."""

    path: str  # ``data.path``, for messages
    labels: tuple[str, ...]  # what each shard is called in ids and messages
    fingerprint: str  # another one where there are other shards, or files have changed
    # The usable rows of a shard, by its number, in their order and with their encoded images, as far as it can be read.
    read: Callable[[int, Report], Iterator[Row]]
    issues: tuple[RowIssue, ...] = ()  # what is left out before any shard is read
    splits: tuple[str | None, ...] = ()  # of all rows of each shard; None, or no splits: only the rows say it
    local: bool = True  # all are files of this machine: what can't be read of them now can't be read later

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def for_training(self) -> list[int]:
        """The numbers of the shards that may have rows to train on."""
        return [index for index in range(len(self)) if not self.splits or self.splits[index] in (None, "train")]


def digest(*parts: object) -> str:
    """A short name for what is the same only where all parts are."""
    return blake2b(repr((VERSION, *parts)).encode(), digest_size=16).hexdigest()


def is_file_name(name: str) -> bool:
    """Whether a name is of a file or folder on this machine, and no address (``https://…``) or command (``pipe:…``)."""
    return "://" not in name and not name.startswith("pipe:")


def read_shards(shards: Shards, *, cache_dir: str | Path | None = None) -> Rows:
    """All rows of shards, copied once into a file on this disk, from which they can be read in any order.

    The copy in ``cache_dir`` (by default beside those of ``datasets``) is used again unless the shards' names, sizes or
    times have changed, or an address or a command failed while it was made.

    Raises:
        UserError: no usable row in the shards.
    """

    def rows(report: Report) -> Iterator[Row]:
        return chain.from_iterable(shards.read(index, report) for index in range(len(shards)))

    return _copied(rows, shards, f"all-{shards.fingerprint}", cache_dir)


def read_head(shards: Shards, count: int, *, cache_dir: str | Path | None = None) -> Rows:
    """The first ``count`` rows, taken in turn from the splits, and from shards that are spread evenly over each.

    At most ``OPEN_SHARDS`` are open at a time, and no others are read if these hold enough.

    Raises:
        UserError: no usable row in the shards.
    """

    def rows(report: Report) -> Iterator[Row]:
        by_split: dict[str | None, list[int]] = {}
        for index, split in enumerate(shards.splits or [None] * len(shards)):
            by_split.setdefault(split, []).append(index)
        open_at_once = max(1, OPEN_SHARDS // max(len(by_split), 1))
        readers = []
        for indices in by_split.values():
            spread = [indices[place * len(indices) // open_at_once] for place in range(open_at_once)]
            order = dict.fromkeys([*spread, *indices])
            readers.append(_in_turn((shards.read(index, report) for index in order), open_at_once))
        return _in_turn(readers, len(readers))

    return _copied(rows, shards, f"head-{count}-{shards.fingerprint}", cache_dir, count)


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
    from datasets.arrow_writer import ArrowWriter
    from datasets.utils import tqdm

    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "captioning-shards").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    copy, record = folder / f"{name}.arrow", folder / f"{name}.issues.json"
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    started = time.time()
    with FileLock(folder / f"{name}.lock"):
        known = json.loads(record.read_text()) if record.is_file() and copy.is_file() else None
        # A copy that lacks what an address or a command didn't give is only for the processes that train together:
        # those that waited for it, and those that the first of them has started.
        if known is None or not (known["complete"] or not is_first or copy.stat().st_mtime >= started):
            record.unlink(missing_ok=True)
            issues = list(shards.issues)
            ids: set[str] = set()
            with (
                replacing(copy) as part,
                # Images are in memory until a batch of them is written.
                ArrowWriter(features=row_features(), path=str(part), writer_batch_size=100) as writer,
                tqdm(unit=" images", desc="Copying shards", total=count) as progress,
            ):
                for row in rows(issues.append):
                    if row["id"] in ids:
                        issues.append(RowIssue("id of an earlier row", row["id"]))
                        continue
                    ids.add(row["id"])
                    writer.write(row)
                    progress.update()
                    if len(ids) == count:
                        break
                if not ids:
                    what = f": {describe(issues)}" if issues else ""
                    raise UserError(f"data.path={shards.path}: no captioned image in its {len(shards)} shards{what}")
                writer.finalize()
            failed = any(issue.kind.startswith((UNREADABLE, UNREADABLE_IMAGE)) for issue in issues)
            known = {"complete": shards.local or not failed, "issues": issues}
            with replacing(record) as part:
                part.write_text(json.dumps(known))
        table = datasets.Dataset.from_file(str(copy))
    ids_in_order = list(table["id"][:])
    in_order = table.select(sorted(range(len(table)), key=ids_in_order.__getitem__))
    return Rows(in_order, tuple(RowIssue(*issue) for issue in known["issues"]))
