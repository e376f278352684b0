"""The lines of JSONL, CSV and Parquet files; a line that can't be read is a problem, and the others are read."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from captioning.data.sources.paths import is_utf8
from captioning.data.sources.row_builder import RowBuilder
from captioning.errors import UserError, reason

UNREADABLE = "file can't be read"
NOT_UTF8 = "line isn't UTF-8 text"
NOT_JSON = "line isn't JSON"
NO_OBJECT = "line isn't a JSON object"
NOT_CSV = "line isn't CSV (is a double quote left open?)"
TOO_MANY_CELLS = "line with more cells than columns (a caption with a comma needs double quotes)"
FIELD_LIMIT = 16 * 2**20  # characters; an open quote would take the rest of any file for one cell


class Line(NamedTuple):
    """A line with the name that problems call it by, such as ``metadata.csv line 3``."""

    where: str
    cells: dict[str, Any]


class LineFile:
    """A file of lines: JSONL, CSV, TSV or Parquet.

    Args:
        path: the file.
        label: what problems call it.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path = path
        self.label = label
        self.kind = path.suffix.lower()

    def column_names(self) -> list[str]:
        """All columns of the file; of JSONL, those of all its lines, which may differ.

        Raises:
            UserError: the file can't be read.
        """
        if self.kind == ".parquet":
            return list(self._parquet().schema_arrow.names)
        if self.kind in (".csv", ".tsv"):
            with open_text(self.path) as text:
                return self._header(csv.reader(text, delimiter=self._delimiter, strict=True))
        unused = RowBuilder()
        return list(dict.fromkeys(name for line in self._json_lines(unused) for name in line.cells))

    def holds_images(self, column: str) -> bool:
        """Whether a column holds encoded images, and not their names."""
        import pyarrow as pa

        if self.kind != ".parquet":
            return False
        kind = self._parquet().schema_arrow.field(column).type
        return any(is_kind(kind) for is_kind in (pa.types.is_struct, pa.types.is_binary, pa.types.is_large_binary))

    def read(self, draft: RowBuilder, columns: list[str]) -> Iterator[Line]:
        """The lines; those that can't be read become problems of ``draft``.

        Args:
            draft: where problems are put.
            columns: those that are wanted; of a Parquet file no others are read.
        """
        if self.kind == ".parquet":
            return self._parquet_lines(draft, columns)
        return self._csv_lines(draft) if self.kind in (".csv", ".tsv") else self._json_lines(draft)

    def _json_lines(self, draft: RowBuilder) -> Iterator[Line]:
        with open_text(self.path) as text:
            for number, line in enumerate(text, 1):
                if line.isspace():
                    continue
                where = f"{self.label} line {number}"
                if not is_utf8(line):
                    draft.fail(NOT_UTF8, where)
                    continue
                try:
                    cells = json.loads(line)
                except (ValueError, RecursionError):
                    draft.fail(NOT_JSON, where)
                    continue
                if isinstance(cells, dict):
                    yield Line(where, cells)
                else:
                    draft.fail(NO_OBJECT, where)

    def _csv_lines(self, draft: RowBuilder) -> Iterator[Line]:
        csv.field_size_limit(FIELD_LIMIT)  # of the whole process; the usual one is 128 KiB
        with open_text(self.path) as text:
            lines = _Rewindable(text)
            reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
            names = self._header(reader)
            while True:
                lines.taken.clear()
                start = lines.number + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error:
                    draft.fail(NOT_CSV, f"{self.label} line {start}")
                    lines.rewind(keep=1)
                    continue
                where = f"{self.label} line {start}"
                if not all(map(is_utf8, cells)):
                    draft.fail(NOT_UTF8, where)
                elif len(cells) > len(names):
                    draft.fail(TOO_MANY_CELLS, where)
                elif cells:
                    yield Line(where, dict(zip(names, cells, strict=False)))

    @property
    def _delimiter(self) -> str:
        return "\t" if self.kind == ".tsv" else ","

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            names = next((cells for cells in reader if cells), [])
        except csv.Error as error:
            raise UserError(f"{self.path}: its first line isn't CSV ({error})") from error
        if not all(map(is_utf8, names)) or any("\0" in name for name in names):
            raise UserError(f"{self.path}: not UTF-8 text; save the file in that encoding")
        if any("\n" in name for name in names):
            raise UserError(f"{self.path}: its first line isn't CSV; is a double quote left open?")
        return [name.strip() for name in names]

    def _parquet_lines(self, draft: RowBuilder, columns: list[str]) -> Iterator[Line]:
        import pyarrow as pa

        number = 0
        try:
            for batch in self._parquet().iter_batches(batch_size=8192, columns=columns):
                for cells in rows_of_batch(batch):
                    where = f"{self.label} row {number}"  # counted from 0, as pandas and the Hub show it
                    if cells is None:
                        draft.fail(NOT_UTF8, where)
                    else:
                        yield Line(where, cells)
                    number += 1
        except (OSError, pa.ArrowException):
            draft.fail(UNREADABLE, f"{self.label}, from row {number} on")

    def _parquet(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet

        try:
            file = pa.parquet.ParquetFile(self.path)
            _ = file.schema_arrow.names
            return file
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(f"{self.path}: can't be read as Parquet ({reason(error)})") from error


def rows_of_batch(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The cells of each row of an Arrow batch or table; None for a row with text that isn't UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(batch.num_rows):
            try:
                yield batch.slice(number, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


class _Rewindable(Iterator[str]):
    """Lines that can be taken again."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.number = 0  # of the line taken last
        self.taken: list[str] = []
        self._lines = lines
        self._waiting: list[str] = []  # last one first

    def __next__(self) -> str:
        line = self._waiting.pop() if self._waiting else next(self._lines)
        self.number += 1
        self.taken.append(line)
        return line

    def rewind(self, *, keep: int) -> None:
        """Put back all that was taken, but for the first ``keep`` lines."""
        self.number -= len(self.taken[keep:])
        self._waiting += reversed(self.taken[keep:])


def open_text(file: Path) -> TextIO:
    """A text file of any system; bytes that aren't UTF-8 are kept, for :func:`is_utf8` to find."""
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline=None)
