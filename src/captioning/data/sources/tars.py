"""WebDataset's tar shards, from this machine, an address or a command."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from captioning.data.rows import USUAL, Columns, Row, RowIssue
from captioning.data.shards import UNREADABLE, Report, Shards, digest, is_file_name
from captioning.data.sources.columns import ColumnNames, find_columns
from captioning.data.sources.paths import ImageFolder, image_suffixes
from captioning.data.sources.row_builder import encoded_row
from captioning.data.sources.text_files import is_utf8, json_object
from captioning.errors import UserError, reason, shown

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def is_shards(path: str) -> bool:
    """Whether a path is of tar shards, by its name alone: tars, a pattern or addresses of them, or a command."""
    names = (name if is_file_name(name) else re.split("[?#]", name)[0] for name in path.split("::"))
    return path.startswith("pipe:") or any(name.rstrip("}").endswith(TAR_SUFFIXES) for name in names)


def tar_shards(path: str, *, columns: Columns = USUAL) -> Shards:
    """WebDataset shards: tars in which the members of a row are side by side, with the same name up to a dot.

    A row's image is the member with the suffix of an image. Its captions are the lines of ``.txt``, or else a
    caption or a list of captions in the object of ``.json``, where an id, a group, a split and a stratum may be too.
    Members are never written to the disk; a member's name is nothing but a part of the row's id.

    Args:
        path: a tar; a folder with tars, in subfolders too; or what webdataset takes: an address (``https://…``,
            ``pipe:COMMAND`` and others), with a brace pattern such as ``{00000..00099}``, several with ``::`` between.
        columns: ``image`` is the suffix of a member, ``caption`` that of a text or a key of ``.json``, as are others.

    Raises:
        UserError: there is no shard. Where some are missing that ``path`` names, these are issues.
    """
    from webdataset.shardlists import expand_urls

    place = Path(path).expanduser()
    issues: list[RowIssue] = []
    if os.path.isdir(place):  # noqa: PTH112  Path.is_dir fails for a long command or pattern
        folder = ImageFolder(place)
        names = [folder.find(name).path for name in folder.files() if name.endswith(TAR_SUFFIXES)]
        issues += (issue for issue in folder.left_out() if issue.name.endswith(TAR_SUFFIXES))
        if not names:
            raise UserError(f"data.path={path}: no shards in this folder (looked for *{', *'.join(TAR_SUFFIXES)})")
    elif os.path.isfile(place):  # noqa: PTH113
        names = [str(place.absolute())]
    else:
        try:
            names = expand_urls(path) if "{" in path or "::" in path else [path]
        except (ValueError, AssertionError) as error:
            raise UserError(f"data.path={path}: not a pattern of shards ({error})") from error
        absolute = (str(Path(name).expanduser().absolute()) if is_file_name(name) else name for name in names)
        names = list(dict.fromkeys(absolute))
    missing = [name for name in names if is_file_name(name) and not os.path.isfile(name)]  # noqa: PTH113
    if len(missing) == len(names):
        raise UserError(f"data.path={path}: no such shard ({missing[0]}{', …' if missing[1:] else ''})")
    issues += (RowIssue("shard is missing", shown(name)) for name in missing)
    names = [name for name in names if name not in set(missing)]
    # As much of the end of each name as tells it from the others, without what may be a password behind a ?.
    parts = [urlsplit(name).path.split("/") for name in names]
    by_depth = (tuple(shown("/".join(part[-n:])) for part in parts) for n in range(1, max(map(len, parts)) + 1))
    numbers = tuple(f"{number:06d}" for number in range(len(names)))
    labels = next((labels for labels in by_depth if len(set(labels)) == len(names)), numbers)
    stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in map(Path, filter(is_file_name, names))]
    return Shards(
        path=path,
        labels=labels,
        fingerprint=digest(names, columns, stats, issues),
        read=partial(_read_tar, list(zip(names, labels, strict=True)), columns),
        issues=tuple(issues),
        local=all(map(is_file_name, names)),
    )


def _read_tar(shards: Sequence[tuple[str, str]], columns: Columns, index: int, report: Report) -> Iterator[Row]:
    file, label = shards[index]
    prefix = next((label.removesuffix(suffix) for suffix in TAR_SUFFIXES if label.endswith(suffix)), label)
    for members in _members(file, label, report):
        name = shown(f"{prefix}/{members['__key__']}")
        fields = {suffix: content for suffix, content in members.items() if not suffix.startswith("__")}
        images = [suffix for suffix in fields if f".{suffix.rpartition('.')[2]}" in image_suffixes()]
        # Of a.jpg and a.mask.png it is the first.
        image = (columns.image or "").lower() or min(images, key=lambda suffix: suffix.count("."), default="")
        row, problem = json_object(fields.get("json", b"{}"))
        if problem:
            report(RowIssue(f".json {problem}", name))
            continue
        wanted, member = columns, (columns.caption or "txt").lower()  # as webdataset has all suffixes
        if member in fields:
            text = fields[member].decode("utf-8-sig", errors="surrogateescape")
            if not is_utf8(text):
                report(RowIssue(f".{member} isn't UTF-8 text", name))
                continue
            row[member] = [line for line in text.splitlines() if line.strip()]
            wanted = replace(columns, caption=member)
        try:
            cells = _names(tuple(row), wanted).cells(row)
        except UserError as error:
            report(RowIssue(reason(error).partition(";")[0], name))  # without what is in this .json
        else:
            yield from encoded_row(name, fields.get(image), cells, report, id_expected=columns.id is not None)


@lru_cache
def _names(there: tuple[str, ...], columns: Columns) -> ColumnNames:
    """The columns of a .json, in which no image is; a row without captions has an empty column of them."""
    further = {"captions"}.difference(name.lower() for name in there)
    return find_columns("its .json", ["", *there, *further], replace(columns, image=None), image_columns=[""])


def _members(name: str, label: str, report: Report) -> Iterator[dict[str, Any]]:
    """The members of each row of a tar by their suffixes, as webdataset groups them."""
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    errors: list[str] = []

    def leave_out(error: Exception) -> bool:
        if "duplicate file name" in str(error.args[:1]):
            member = str(error.args[0]).partition(": duplicate")[0]
            report(RowIssue("second member of one name", shown(f"{label}/{member}")))
            return True
        errors.append(_error_text(error))
        return False

    with closing(_Stream(partial(gopen, name))) as stream:
        files = tar_file_expander([{"url": name, "stream": stream}], handler=leave_out)
        yield from group_by_keys(files, handler=leave_out)
        if not errors and not stream.is_whole():
            errors.append("it ends too early")
    if errors:
        report(RowIssue(f"{UNREADABLE}: {stream.error or errors[0]}", label))


def _error_text(error: Exception) -> str:
    # In place of the whole command of a pipe, with addresses and what may be passwords in them.
    status = re.search(r": exit (-?\d+) \(read\)", str(error))
    # To what tarfile says, webdataset adds the stream.
    return f"its command ended with status {status[1]}" if status else reason(error).partition(" @ ")[0]


class _Stream:
    """A tar that knows whether it was read to its end: Python takes damage between members for the end."""

    def __init__(self, opened: Callable[[], BinaryIO]) -> None:
        self.opened = opened
        self.stream: BinaryIO | None = None
        self.first = self.last = b""
        self.error = ""  # of the command that it came from

    def read(self, size: int) -> bytes:
        self.stream = self.stream or self.opened()  # here webdataset handles what goes wrong
        block = bytes(self.stream.read(size))
        self.first = self.first or block
        self.last = block[-512:] or self.last
        return block

    def is_whole(self) -> bool:
        """Whether zeros were at the end, as every tar has them; of a compressed one, whether it could be read."""
        return self.first[257:262] != b"ustar" or not any(self.last)

    def close(self) -> None:
        try:
            if self.stream:
                self.stream.close()
        except OSError as error:
            text = _error_text(error)
            self.error = "" if text.endswith("-13") else text  # that of a command without a reader
