"""Where captions go: each is written at once and whole, so that after any end the next run goes on from there."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet
from filelock import FileLock, Timeout

from captioning.data.sources.text_files import is_utf8
from captioning.errors import UserError, reason
from captioning.files import replacing
from captioning.inference.captioner import is_url


class Row(NamedTuple):
    """Of an image: its path or URL, its caption, and the mean log-probability (nats) of the caption's tokens."""

    path: str
    caption: str
    score: float


class Output(Protocol):
    """Where captions go."""

    name: str  # for messages

    def reserved(self) -> AbstractContextManager[None]:
        """Have it for oneself meanwhile.

        Raises:
            UserError: another process is writing there.
        """

    def clear(self) -> None:
        """Take away what is there."""

    def done(self) -> set[str]:
        """The images that have a caption there.

        Raises:
            UserError: what is there isn't of this kind.
        """

    def write(self, row: Row) -> None:
        """Write a row. It is there, whatever happens next.

        Raises:
            ValueError: a row that can't be there; the message says why.
            OSError: no row can be written there.
        """

    def finish(self) -> None:
        """Make what there is as it shall be, after the last row."""


@dataclass(frozen=True)
class Format:
    """Of rows in a text file.

    Args:
        write: the text of a row; ValueError where the format can't hold it.
        path_of: of a row's text; ValueError where it is none.
        header: the first line.
        has_quotes: whether a row may go over several lines, in double quotes.
    """

    write: Callable[[Row], str]
    path_of: Callable[[str], str]
    header: str = ""
    has_quotes: bool = False

    def encode(self, row: Row) -> bytes:
        """The row, in UTF-8.

        Raises:
            ValueError: the format can't hold it.
        """
        if not is_utf8(row.path):
            raise ValueError("file name isn't UTF-8")
        return self.write(row).encode()


def _json(row: Row) -> str:
    return json.dumps({**row._asdict(), "score": round(row.score, 4)}, ensure_ascii=False) + "\n"


def _path_in_json(text: str) -> str:
    match json.loads(text):
        case {"path": str(path)}:
            return path
    raise ValueError("no path")


def _line(row: Row) -> str:
    if "\t" in row.path or len(row.path.splitlines()) > 1:
        raise ValueError("a tab or line break in its name, which lines can't hold; .jsonl or .csv can")
    return f"{row.path}\t{row.caption}\n"


def _path_in_line(text: str) -> str:
    path, tab, _ = text.partition("\t")
    if not tab:
        raise ValueError("no tab")
    return path


def _cells(row: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()


def _path_in_cells(text: str) -> str:
    (path, *others), *_ = csv.reader(io.StringIO(text, newline=""))
    if len(others) != len(Row._fields) - 1:
        raise ValueError("other columns")
    return path


JSON_LINES = Format(_json, _path_in_json)
FORMATS = {
    "lines": Format(_line, _path_in_line),
    "jsonl": JSON_LINES,
    "csv": Format(
        lambda row: _cells(row._replace(score=round(row.score, 4))),
        _path_in_cells,
        header=_cells(Row._fields),
        has_quotes=True,
    ),
}
SUFFIXES = {".txt": "lines", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
PARQUET_SCHEMA = pa.schema({"path": pa.string(), "caption": pa.string(), "score": pa.float32()})
ROWS_AT_ONCE = 65_536


class StandardOutput:
    """Rows on standard output.

    Args:
        rows: their format.
    """

    name = "standard output"

    def __init__(self, rows: Format) -> None:
        self.rows = rows
        self._unsaid = rows.header.encode()

    def reserved(self) -> AbstractContextManager[None]:
        return nullcontext()

    def clear(self) -> None:
        """Nothing: what was said was said."""

    def done(self) -> set[str]:
        return set()

    def write(self, row: Row) -> None:
        content = self.rows.encode(row)
        sys.stdout.buffer.write(self._unsaid + content)
        sys.stdout.buffer.flush()
        self._unsaid = b""

    def finish(self) -> None:
        """Nothing: all was written."""


class TextFile:
    """Rows at the end of a file.

    Args:
        path: of the file.
        rows: their format.
    """

    def __init__(self, path: Path, rows: Format) -> None:
        self.path, self.rows, self.name = path, rows, str(path)
        self._file: BinaryIO | None = None

    @contextmanager
    def reserved(self) -> Iterator[None]:
        with _locked(self.path):
            try:
                yield
            finally:
                if self._file is not None:
                    self._file.close()
                    self._file = None

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)

    def done(self) -> set[str]:
        paths = set()
        for number, content in enumerate(self.contents(), 1):
            try:
                if number > 1 or not self.rows.header:
                    paths.add(self.rows.path_of(content.decode()))
                elif content.decode() != self.rows.header:
                    raise ValueError("another header")
            except ValueError as error:
                raise UserError(
                    f"{self.path}: row {number} isn't one of captions; name another file, or --overwrite this one"
                ) from error
        return paths

    def contents(self) -> Iterator[bytes]:
        """The rows as they are in the file; a last one that was cut off isn't among them."""
        if not self.path.exists():
            return
        content = b""
        with self.path.open("rb") as file:
            for line in file:
                content += line
                if line.endswith(b"\n") and not (self.rows.has_quotes and content.count(b'"') % 2):
                    yield content
                    content = b""

    def write(self, row: Row) -> None:
        content = self.rows.encode(row)
        if self._file is None:
            whole = sum(map(len, self.contents()))
            self._file = self.path.open("ab", buffering=0)
            self._file.truncate(whole)
            if not whole:
                content = self.rows.header.encode() + content
        while content:  # a full disk takes some, and says so at the next
            content = content[self._file.write(content) :]

    def finish(self) -> None:
        """Nothing: all was written."""


class ParquetFile:
    """A Parquet file, which is written in the end; until then the rows are in a hidden file beside it.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self._new = TextFile(path.with_name(f".{path.name}.jsonl"), JSON_LINES)
        self.reserved, self.write = self._new.reserved, self._new.write

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self._new.clear()

    def done(self) -> set[str]:
        return self._written() | self._new.done()

    def finish(self) -> None:
        """Write the file anew, with what was in it."""
        written = self._written()
        rows = (row for row in map(json.loads, self._new.contents()) if row["path"] not in written)
        with replacing(self.path) as part, pa.parquet.ParquetWriter(part, PARQUET_SCHEMA) as writer:
            if written:
                with pa.parquet.ParquetFile(self.path) as file:
                    for batch in file.iter_batches(ROWS_AT_ONCE):
                        writer.write_batch(batch)
            while some := list(islice(rows, ROWS_AT_ONCE)):
                writer.write_batch(pa.RecordBatch.from_pylist(some, schema=PARQUET_SCHEMA))
        self._new.clear()

    def _written(self) -> set[str]:
        if not self.path.exists():
            return set()
        try:
            with pa.parquet.ParquetFile(self.path) as file:
                if not file.schema_arrow.equals(PARQUET_SCHEMA):
                    raise UserError(f"{self.path}: has other columns; name another file, or --overwrite this one")
                return set(file.read(["path"])["path"].to_pylist())
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self.path}: can't be read as Parquet ({reason(error)})") from error


class Sidecars:
    """A ``NAME.txt`` beside each image, as trainers read captions.

    Args:
        images: paths.

    Raises:
        UserError: an image is a URL, or two would have the same file.
    """

    name = "a .txt beside each image"

    def __init__(self, images: Sequence[str]) -> None:
        if url := next(filter(is_url, images), None):
            raise UserError(f"{url}: there is no folder to write its caption into; take --output FILE")
        self._images: dict[Path, str] = {}
        for image in images:
            sidecar = _sidecar(image)
            if (other := self._images.setdefault(sidecar, image)) != image:
                raise UserError(f"{image}: its caption would be in {sidecar}, as that of {other}; rename one")

    def reserved(self) -> AbstractContextManager[None]:
        return nullcontext()

    def clear(self) -> None:
        """Nothing: each caption stays until its new one is there."""

    def done(self) -> set[str]:
        return {image for sidecar, image in self._images.items() if sidecar.is_file() and sidecar.stat().st_size}

    def write(self, row: Row) -> None:
        with replacing(_sidecar(row.path)) as part:
            part.write_text(f"{row.caption}\n", encoding="utf-8")

    def finish(self) -> None:
        """Nothing: all was written."""


def make_output(images: Sequence[str], *, file: Path | None, sidecars: bool = False, form: str | None = None) -> Output:
    """Where a user wants captions.

    Args:
        images: that will be captioned.
        file: of which the suffix tells the format; None: standard output.
        sidecars: beside the images instead.
        form: its format; by default what the file's suffix says, and lines on standard output.

    Raises:
        UserError: both a file and sidecars, no such format, or the captions can't be there.
    """
    if sidecars and (file or form):
        raise UserError("--sidecars writes a .txt beside each image; leave out --output and --format, or --sidecars")
    if sidecars:
        return Sidecars(images)
    known = [*FORMATS, "parquet"]
    if form and form not in known:
        raise UserError(f"--format {form}: no such format; there are {', '.join(known)}")
    if file is None:
        if form == "parquet":
            raise UserError("--format parquet: not on standard output; name a file with --output")
        return StandardOutput(FORMATS[form or "lines"])
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise UserError(f"--output {file}: name a file, in a folder that exists")
    chosen = form or SUFFIXES.get(file.suffix.lower())
    if chosen is None:
        raise UserError(f"--output {file}: name it {', '.join(f'*{suffix}' for suffix in SUFFIXES)}, or give --format")
    return ParquetFile(file) if chosen == "parquet" else TextFile(file, FORMATS[chosen])


def _sidecar(image: str) -> Path:
    return Path(image).with_suffix(".txt")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path.with_name(f".{path.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"{path}: another process is writing captions there; wait for it") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # before it is let go, or it might be another's by then
        lock.release()
