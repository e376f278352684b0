"""Data that come in shards, read a row at a time; and WebDataset's tar shards."""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from captioning.data.pictures import PictureSource
from captioning.data.rows import CAPTION_COLUMNS, USUAL, Columns, Problem, Row, Rows, describe, row_features
from captioning.data.sources.columns import ColumnNames, find_columns
from captioning.data.sources.draft import NO_PICTURE, Cells, Draft
from captioning.data.sources.paths import PictureFolder, picture_suffixes, shown
from captioning.errors import UserError
from captioning.files import replacing

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
OPEN_SHARDS = 16  # at a time, for the head of a stream
VERSION = 1  # of the copies that are kept; those of another version aren't used

UNREADABLE = "shard can't be read to its end"

Report = Callable[[Problem], object]  # what is left out is told to it


@dataclass(frozen=True)
class Shards:
    """Parts of a data set that can each be read from its beginning to its end.

    Attributes:
        path: ``data.path``, for messages.
        labels: what each shard is called in ids and messages.
        fingerprint: another one where there are other shards, or files have changed.
        read: the rows of a shard, by its number, in their order and with their encoded pictures, as far as it can be
            read; what can't be used is reported and left out.
        problems: what is left out before any shard is read.
    """

    path: str
    labels: tuple[str, ...]
    fingerprint: str
    read: Callable[[int, Report], Iterator[Row]]
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


# ------------------------------------------------------------ as a table


def read_shards(path: str, *, columns: Columns = USUAL, cache_dir: str | Path | None = None) -> Rows:
    """All rows of tar shards, copied once into a file on this disk, from which they can be read in any order.

    Args:
        path: as :func:`tar_shards` takes it.
        columns: likewise.
        cache_dir: where the copy is kept; beside the copies of ``datasets`` when not given. It is used again unless the
            shards' names, sizes or times have changed.

    Raises:
        UserError: there is no shard, or no usable row in them.
    """
    shards = tar_shards(path, columns=columns)

    def rows(report: Report) -> Iterator[Row]:
        return chain.from_iterable(shards.read(index, report) for index in range(len(shards)))

    return _copied(rows, shards, f"all-{shards.fingerprint}", cache_dir)


def read_head(shards: Shards, count: int, *, cache_dir: str | Path | None = None) -> Rows:
    """The first ``count`` rows, taken in turn from shards that are spread evenly over all of them.

    Args:
        shards: of which at most ``OPEN_SHARDS`` are open at a time, and no more than that at all if they hold enough.
        count: how many rows; there are fewer where all shards together hold fewer.
        cache_dir: as for :func:`read_shards`.

    Raises:
        UserError: no usable row in the shards.
    """

    def rows(report: Report) -> Iterator[Row]:
        return _in_turn(shards, report)

    return _copied(rows, shards, f"head-{count}-{shards.fingerprint}", cache_dir, count)


def _in_turn(shards: Shards, report: Report) -> Iterator[Row]:
    first = sorted({place * len(shards) // OPEN_SHARDS for place in range(OPEN_SHARDS)})
    others = iter(sorted(set(range(len(shards))) - set(first)))
    readers = deque(shards.read(index, report) for index in first)
    while readers:
        reader = readers.popleft()
        row = next(reader, None)
        if row is not None:
            readers.append(reader)
            yield row
        else:
            readers.extend(shards.read(index, report) for index in islice(others, 1))


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
    left_out = folder / f"{name}.problems.json"

    def copy() -> Iterator[Row]:
        problems = list(shards.problems)
        ids = set()
        for row in rows(problems.append):
            if row["id"] in ids:
                problems.append(Problem("id of an earlier row", row["id"]))
                continue
            ids.add(row["id"])
            yield row
            if len(ids) == count:
                break
        if not ids:
            what = f": {describe(problems)}" if problems else ""
            raise UserError(f"data.path={shards.path}: no captioned picture in its {len(shards)} shards{what}")
        with replacing(left_out) as part:
            part.write_text(json.dumps(problems))

    try:
        table = datasets.Dataset.from_generator(
            copy,
            features=row_features(),
            cache_dir=str(folder),
            fingerprint=name,
            writer_batch_size=100,  # pictures are in memory until so many are written
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise (error.__cause__ if isinstance(error.__cause__, UserError) else error) from None
    ids = list(table["id"])
    in_order = table.select(sorted(range(len(ids)), key=ids.__getitem__))
    return Rows(in_order, tuple(Problem(*problem) for problem in json.loads(left_out.read_text())))


# ------------------------------------------------------------ a row


def rows_of(name: str, encoded: bytes | None, cells: Cells, report: Report, *, id_expected: bool) -> Iterator[Row]:
    """The row that a shard's cells make; none where something is wrong with it, which is reported.

    Args:
        name: the row's id where the cells give none.
        encoded: its picture.
        cells: all else.
        report: told what is left out.
        id_expected: whether a row without an id of its own is a problem.
    """
    if encoded is None or cells.captions is None:
        report(Problem(NO_PICTURE if encoded is None else "picture without a caption", name))
        return
    draft = Draft()
    draft.add(name, None, cells, "", id_expected=id_expected)
    for problem in draft.problems:
        report(problem)
    for row in draft.usable():
        yield Row(
            id=row.id,
            image=PictureSource(bytes=encoded, path=None),
            captions=row.captions,
            split=row.split,
            group=row.group,
            stratum=row.stratum,
        )


def reason(error: BaseException) -> str:
    """What an error of another library says, in part of a line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else (*error.args, "")[0]
    return shown(" ".join(str(said).split()))[:200] if said else type(error).__name__


# ------------------------------------------------------------ tars


def tar_shards(path: str, *, columns: Columns = USUAL) -> Shards:
    """WebDataset shards: tars in which the members of a row are side by side, with the same name up to a dot.

    A row's picture is the member with the suffix of a picture. Its captions are the lines of ``.txt``, or else a
    caption or a list of captions in the object of ``.json``, where an id, a group, a split and a stratum may be too.
    Members are never written to the disk; a member's name is nothing but a part of the row's id.

    Args:
        path: a tar; a folder with tars, in subfolders too; or what webdataset takes: an address (``https://…``,
            ``pipe:COMMAND`` and others), with a brace pattern such as ``{00000..00099}``, several with ``::`` between.
        columns: ``image`` is the suffix of a member, ``caption`` that of a text or a key of ``.json``; all others are
            keys of ``.json``.

    Raises:
        UserError: there is no shard. Where some are missing that ``path`` names, these are problems.
    """
    place = Path(path).expanduser()
    problems: list[Problem] = []
    if place.is_dir():
        below = PictureFolder(place)
        names = [below.find(name).path for name in below.files() if name.endswith(TAR_SUFFIXES)]
        problems += (Problem(trouble, name) for trouble, name in below.left_out() if name.endswith(TAR_SUFFIXES))
        if not names:
            raise UserError(f"data.path={path}: no shards in this folder (looked for *{', *'.join(TAR_SUFFIXES)})")
    else:
        names = [str(place.absolute())] if place.is_file() else _expand(path)
    missing = [name for name in names if _is_file_name(name) and not Path(name).is_file()]
    if len(missing) == len(names):
        raise UserError(f"data.path={path}: no such shard ({missing[0]}{', …' if missing[1:] else ''})")
    problems += (Problem("shard is missing", shown(name)) for name in missing)
    names = [name for name in names if name not in set(missing)]
    labels = _labels(names)
    stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in map(Path, filter(_is_file_name, names))]
    return Shards(
        path=path,
        labels=labels,
        fingerprint=digest(names, columns, stats, problems),
        read=partial(_read_tar, list(zip(names, labels, strict=True)), columns),
        problems=tuple(problems),
    )


def digest(*parts: Any) -> str:
    """A short name for what is the same only where all parts are."""
    return blake2b(repr((VERSION, *parts)).encode(), digest_size=16).hexdigest()


def _expand(path: str) -> list[str]:
    names = [path]
    if "{" in path or "::" in path:
        from webdataset.shardlists import expand_urls

        try:
            names = expand_urls(path)
        except (ValueError, AssertionError) as error:
            raise UserError(f"data.path={path}: not a pattern of shards ({error})") from error
    return [str(Path(name).expanduser().absolute()) if _is_file_name(name) else name for name in dict.fromkeys(names)]


def _is_file_name(name: str) -> bool:
    return "://" not in name and not name.startswith("pipe:")


def _labels(names: Sequence[str]) -> tuple[str, ...]:
    """As much of the end of each name as tells it from the others."""
    parts = [urlsplit(name).path.split("/") for name in names]  # without what may be a password behind a ?
    for depth in range(1, max(map(len, parts)) + 1):
        labels = tuple(shown("/".join(part[-depth:])) for part in parts)
        if len(set(labels)) == len(labels):
            return labels
    return tuple(f"{number:06d}" for number in range(len(names)))


def _read_tar(shards: Sequence[tuple[str, str]], columns: Columns, index: int, report: Report) -> Iterator[Row]:
    file, label = shards[index]
    prefix = next((label.removesuffix(suffix) for suffix in TAR_SUFFIXES if label.endswith(suffix)), label)
    suffixes = picture_suffixes()
    for members in _members(file, label, report):
        name = shown(f"{prefix}/{members['__key__']}")
        fields = {suffix: content for suffix, content in members.items() if not suffix.startswith("__")}
        pictures = [suffix for suffix in fields if f".{suffix.rpartition('.')[2]}" in suffixes]
        # Of a.jpg and a.mask.png it is the first.
        image = (columns.image or "").lower() or min(pictures, key=lambda suffix: suffix.count("."), default="")
        try:
            cells = _cells(fields, columns)
        except ValueError as error:
            report(Problem(reason(error).partition(";")[0], name))  # without what is in this .json
        else:
            yield from rows_of(name, fields.get(image), cells, report, id_expected=columns.id is not None)


def _cells(fields: dict[str, bytes], columns: Columns) -> Cells:
    line = _object(fields["json"]) if "json" in fields else {}
    member = (columns.caption or "txt").lower()  # as webdataset has all suffixes
    if member in fields:
        line[member] = _lines(fields[member], f".{member}")
        columns = replace(columns, caption=member)
    return _names(tuple(line), columns).cells(line)


@lru_cache
def _names(there: tuple[str, ...], columns: Columns) -> ColumnNames:
    find = partial(find_columns, "its .json", columns=replace(columns, image=None), usual_images=("",))
    try:
        return find(("", *there))  # no picture is in it
    except UserError:
        return find(("", *there, CAPTION_COLUMNS[0]))  # which is empty then: a row without captions is told by that


def _object(encoded: bytes) -> dict[str, Any]:
    try:
        record = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise ValueError(".json isn't JSON") from error
    if not isinstance(record, dict):
        raise ValueError(".json isn't a JSON object")
    return record


def _lines(encoded: bytes, where: str) -> list[str] | str:
    try:
        return [line for line in encoded.decode("utf-8-sig").splitlines() if line.strip()] or ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} isn't UTF-8 text") from error


def _members(name: str, label: str, report: Report) -> Iterator[dict[str, Any]]:
    """The members of each row of a tar by their suffixes, as webdataset groups them."""
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    troubles: list[str] = []

    def leave_out(error: Exception) -> bool:
        if "duplicate file name" in str(error.args[:1]):
            member = str(error.args[0]).partition(": duplicate")[0]
            report(Problem("second member of one name", shown(f"{label}/{member}")))
            return True
        troubles.append(_what_stopped(error))
        return False

    try:
        stream = _Stream(gopen(name))
    except (OSError, ValueError) as error:
        report(Problem(f"{UNREADABLE}: {reason(error)}", label))
        return
    with closing(stream):
        files = tar_file_expander([{"url": name, "stream": stream}], handler=leave_out)
        yield from group_by_keys(files, handler=leave_out)
        if not troubles and not stream.is_whole():
            troubles.append("it ends too early")
    if troubles:
        report(Problem(f"{UNREADABLE}: {stream.failure or troubles[0]}", label))


def _what_stopped(error: Exception) -> str:
    # In place of the whole command of a pipe, with addresses and what may be passwords in them.
    status = re.search(r": exit (-?\d+) \(read\)", str(error))
    # To what tarfile says, webdataset adds the stream.
    return f"its command ended with status {status[1]}" if status else reason(error).partition(" @ ")[0]


class _Stream:
    """A tar that is read, and whether that went to its end: Python's reader takes damage between members for the end.

    Args:
        stream: what is read.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.first = self.last = b""
        self.failure = ""  # of the command that it came from

    def read(self, size: int) -> bytes:
        block = bytes(self.stream.read(size))
        self.first = self.first or block
        self.last = block[-512:] or self.last
        return block

    def is_whole(self) -> bool:
        """Whether zeros were at the end, as every tar has them; of a compressed one, whether it could be read."""
        return self.first[257:262] != b"ustar" or not any(self.last)

    def close(self) -> None:
        try:
            self.stream.close()
        except OSError as error:
            said = _what_stopped(error)
            self.failure = "" if said.endswith("-13") else said  # that of a command without a reader
