"""Tables of images and captions: CSV, JSON lines, Parquet, and what `datasets` has loaded or saved."""

import csv
import json
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.data.rows import Columns, RawRow, RowIssue
from captioning.data.sources.columns import EncodedImage, Table, find_columns, find_image_columns, name_classes
from captioning.data.sources.split_names import splits_of_files
from captioning.data.sources.text_files import is_utf8, open_text
from captioning.errors import UserError, reason

if TYPE_CHECKING:
    from datasets import Dataset

    from captioning.data.sources.paths import ImageFolder

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (*DELIMITERS, *JSON_LINES, ".parquet")
UNREADABLE = "file can't be read"
NOT_UTF8 = "line isn't UTF-8 text"
FIELD_LIMIT = 16 * 2**20  # characters; an open quote would take the rest of any file for one cell
BATCH = 8192  # rows of Arrow that are Python objects at a time


def read_table(file: Path, label: str, columns: Columns, **more: Any) -> Table:
    """A CSV, TSV, JSON lines or Parquet file; ``label`` is what issues call it, ``more`` are fields of :class:`Table`.

    Raises:
        UserError: it can't be read, or lacks a column.
    """
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return dataset_table(load_parquet(file), label, columns, **more)
    if suffix in DELIMITERS:
        names, rows = _read_csv(file, label, DELIMITERS[suffix])
        return Table(find_columns(label, names, columns), rows, **more)
    return rows_table(read_json_lines(file, label), label, columns, **more)._replace(rows=read_json_lines(file, label))


def rows_table(rows: Iterable[RawRow | RowIssue], label: str, columns: Columns, **more: Any) -> Table:
    """A table of rows that may each have other columns.

    Raises:
        UserError: no row has a column.
    """
    names = dict.fromkeys(name for row in rows if isinstance(row, RawRow) for name in row.cells)
    return Table(find_columns(label, list(names), columns), rows, **more)


def read_json_lines(file: Path, label: str) -> Iterator[RawRow | RowIssue]:
    """The objects on the lines of a file."""
    with open_text(file) as text:
        for number, line in enumerate(text, 1):
            if not line.isspace():
                where, cells, kind = f"{label} line {number}", None, "line isn't a JSON object"
                try:
                    cells = json.loads(line)
                except (ValueError, RecursionError):
                    kind = "line isn't JSON"
                if not is_utf8(line):
                    kind, cells = NOT_UTF8, None
                yield RawRow(where, cells) if isinstance(cells, dict) else RowIssue(kind, where)


def _read_csv(file: Path, label: str, delimiter: str) -> tuple[list[str], Iterator[RawRow | RowIssue]]:
    """The names of the columns, and the rows below them."""
    records = _csv_records(file, delimiter)
    header = next((cells for _, cells in records if cells != []), [])
    if header is None or any("\n" in name for name in header):
        raise UserError(f"{file}: its first line isn't CSV; is a double quote left open?")
    if not all(is_utf8(name) and "\0" not in name for name in header):
        raise UserError(f"{file}: not UTF-8 text; save the file in that encoding")
    names = [name.strip() for name in header]

    def rows() -> Iterator[RawRow | RowIssue]:
        for number, cells in records:
            where = f"{label} line {number}"
            if cells is None:
                yield RowIssue("line isn't CSV (is a double quote left open?)", where)
            elif not all(map(is_utf8, cells)):
                yield RowIssue(NOT_UTF8, where)
            elif len(cells) > len(names):
                yield RowIssue("line with more cells than columns (a caption with a comma needs double quotes)", where)
            elif cells:
                yield RawRow(where, dict(zip(names, cells, strict=False)))

    return names, rows()


def _csv_records(file: Path, delimiter: str) -> Iterator[tuple[int, list[str] | None]]:
    """Each record with the number of the line that it begins on; None for a line that isn't CSV.

    Arrow's reader can't do this: it takes all that follows an open quote for the caption without a word, knows no
    numbers of lines, and has bytes in place of text for a whole column that one line has spoiled.
    """
    csv.field_size_limit(FIELD_LIMIT)  # of the whole process; the usual one is 128 KiB
    ahead: deque[str] = deque()  # lines to be taken again
    taken: list[str] = []
    number = 1
    with open_text(file) as text:

        def lines() -> Iterator[str]:
            while line := ahead.popleft() if ahead else next(text, ""):
                taken.append(line)
                yield line

        while True:
            try:
                for cells in csv.reader(lines(), delimiter=delimiter, strict=True):
                    yield number, cells
                    number += len(taken)
                    taken.clear()
                return
            except csv.Error:
                ahead.extendleft(reversed(taken[1:]))
                yield number, None
                number += 1
                taken.clear()


def load_parquet(file: Path) -> "Dataset":
    """A Parquet file as a memory-mapped table, so that images never are in memory all at once.

    Raises:
        UserError: it can't be read.
    """
    import datasets

    try:
        return datasets.Dataset.from_parquet(str(file))
    except Exception as error:  # what is wrong with a damaged file, Arrow and datasets say in many ways
        raise UserError(f"{file}: can't be read as Parquet ({reason(error.__cause__ or error)})") from error


def dataset_table(dataset: "Dataset", label: str, columns: Columns, *, numbered: bool = False, **more: Any) -> Table:
    """A table of `datasets`, whose images are within, or named by it. Images aren't decoded.

    Raises:
        UserError: it lacks a column, or the image's holds no images.
    """
    import datasets

    names = find_image_columns(label, dataset.features, columns)
    images = None
    if getattr(dataset.features.get(names.image), "dtype", "") not in ("string", "large_string"):
        images = dataset.select_columns([names.image]).cast_column(names.image, datasets.Image(decode=False))
        images = images if names.image == "image" else images.rename_column(names.image, "image")
    texts = dataset.select_columns(names.texts if images else [names.image, *names.texts])

    def rows() -> Iterator[RawRow | RowIssue]:
        cells_of_images = repeat(None) if images is None else _image_cells(images)
        for number, (cells, image) in enumerate(zip(_text_cells(texts), cells_of_images, strict=False)):
            # Counted from 0, as pandas and the Hub show it.
            where = f"{label}-{number:07d}" if numbered else f"{label} row {number}"
            if cells is None:
                yield RowIssue(NOT_UTF8, where)
                continue
            if images is not None:
                cells[names.image] = image
            yield RawRow(where, name_classes(cells, texts.features))

    return Table(names, rows(), images=images, numbered=numbered, **more)


def _image_cells(images: "Dataset") -> Iterator[EncodedImage | str | None]:
    """Of each row the image within, or else its path."""
    number = count()
    for batch in images.with_format("arrow").iter(BATCH):
        encoded, paths = (batch.column("image").combine_chunks().field(name) for name in ("bytes", "path"))
        for content, path in zip(encoded, paths.to_pylist(), strict=True):
            image = EncodedImage(next(number), content)
            yield image if content.is_valid else path


def _text_cells(texts: "Dataset") -> Iterator[dict[str, Any] | None]:
    """The cells of each row; None for a row with text that isn't UTF-8."""
    for batch in texts.with_format("arrow").iter(BATCH):
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:
            for number in range(batch.num_rows):
                try:
                    yield batch.slice(number, 1).to_pylist()[0]
                except UnicodeDecodeError:
                    yield None


def parquet_tables(folder: "ImageFolder", columns: Columns, issues: list[RowIssue]) -> list[Table]:
    """The Parquet files of a folder that can be read; the others are added to ``issues``.

    Raises:
        UserError: none can.
    """
    files = [name for name in folder.files() if name.lower().endswith(".parquet")]
    splits = splits_of_files(files, by_stem=True)
    tables: list[Table] = []
    errors: list[UserError] = []
    for name in files:
        kind = UNREADABLE
        try:
            dataset = load_parquet(Path(folder.find(name).path))
            kind = "file lacks a column"
            tables.append(dataset_table(dataset, name, columns, split=splits[name]))
        except UserError as error:
            errors.append(error)
            issues.append(RowIssue(kind, name))
    if errors and not tables:
        raise errors[0]
    return tables


def is_saved(folder: "ImageFolder") -> bool:
    """Whether ``save_to_disk`` of `datasets` made the folder."""
    files = set(folder.files())
    return "dataset_dict.json" in files or {"state.json", "dataset_info.json"} <= files


def saved_tables(folder: "ImageFolder", columns: Columns) -> list[Table]:
    """What ``save_to_disk`` of `datasets` wrote, with the splits that it gives.

    Raises:
        UserError: it can't be read, leads out of the folder, or lacks a column.
    """
    import datasets

    path = Path(folder.folder)
    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # what is wrong with a damaged folder, each of its files says in its own way
        why = reason(error, name_file=True)
        raise UserError(f"data.path={path}: can't be read as a saved data set ({why})") from error
    named = saved if isinstance(saved, datasets.DatasetDict) else {None: saved}
    files = [file["filename"] for table in named.values() for file in table.cache_files]
    if outside := [file for file in files if not folder.holds(file)]:
        raise UserError(f"data.path={path}: names a file outside of the data folder ({outside[0]})")
    return dataset_tables(named, path.name, columns)


def dataset_tables(named: Any, label: str, columns: Columns) -> list[Table]:
    """The tables of a ``DatasetDict``, by their splits; ``label`` is of one without a split."""
    return [dataset_table(table, split or label, columns, split=split, numbered=True) for split, table in named.items()]
