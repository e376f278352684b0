"""Tables of images and captions: CSV, JSON lines, Parquet, and what `datasets` has loaded or saved."""

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.data.rows import Columns, RawRow, RowIssue
from captioning.data.sources.columns import EncodedImage, Table, find_columns, find_image_columns, name_classes
from captioning.data.sources.split_names import splits_of_files
from captioning.data.sources.text_files import is_utf8, json_object, open_text
from captioning.errors import UserError, reason

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import RecordBatch

    from captioning.data.sources.paths import ImageFolder

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (*DELIMITERS, *JSON_LINES, ".parquet")
UNREADABLE = "file can't be read"
NOT_UTF8 = "line isn't UTF-8 text"
FIELD_LIMIT = 16 * 2**20  # characters; an open quote would take the rest of any file for one cell
BATCH = 8192  # rows of Arrow that are Python objects at a time


@contextmanager
def loading(path: str, form: str) -> Iterator[None]:
    """Turn what Arrow and `datasets` say of a damaged file or folder, in many ways, into a UserError."""
    try:
        yield
    except Exception as error:
        why = reason(error.__cause__ or error, name_file=True)  # only the cause says what it was
        raise UserError(f"{path}: can't be read as {form} ({why})") from error


def read_table(file: Path, label: str, columns: Columns, **more: Any) -> Table:
    """A CSV, TSV, JSON lines or Parquet file; ``label`` is what issues call it, ``more`` are of :class:`Table`."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return dataset_table(load_parquet(file), label, columns, **more)
    if suffix not in DELIMITERS:
        table = rows_table(read_json_lines(file, label), label, columns, **more)
        return table._replace(rows=read_json_lines(file, label))
    records = _csv_records(file, DELIMITERS[suffix])
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

    return Table(find_columns(label, names, columns), rows(), **more)


def rows_table(rows: Iterable[RawRow | RowIssue], label: str, columns: Columns, **more: Any) -> Table:
    """A table of rows that may each have other columns."""
    names = dict.fromkeys(name for row in rows if isinstance(row, RawRow) for name in row.cells)
    return Table(find_columns(label, list(names), columns), rows, **more)


def read_json_lines(file: Path, label: str) -> Iterator[RawRow | RowIssue]:
    """The objects on the lines of a file."""
    with open_text(file) as text:
        for number, line in enumerate(text, 1):
            if not line.isspace():
                where, (cells, problem) = f"{label} line {number}", json_object(line)
                kind = f"line {problem}" if is_utf8(line) else NOT_UTF8
                yield RowIssue(kind, where) if problem or kind == NOT_UTF8 else RawRow(where, cells)


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
    """A Parquet file as a memory-mapped table, so that images never are in memory all at once."""
    import datasets

    with loading(str(file), "Parquet"):
        return datasets.Dataset.from_parquet(str(file))


def dataset_table(dataset: "Dataset", label: str, columns: Columns, *, numbered: bool = False, **more: Any) -> Table:
    """A table of `datasets`, whose images are within, or named by it. Images aren't decoded."""
    import datasets

    names = find_image_columns(label, dataset.features, columns)
    images = None
    if getattr(dataset.features.get(names.image), "dtype", "") not in ("string", "large_string"):
        images = dataset.select_columns([names.image]).cast_column(names.image, datasets.Image(decode=False))
        images = images if names.image == "image" else images.rename_column(names.image, "image")
    texts = dataset.select_columns(names.texts if images else [names.image, *names.texts])

    def rows() -> Iterator[RawRow | RowIssue]:
        first = 0
        image_batches = repeat(None) if images is None else images.with_format("arrow").iter(BATCH)
        for batch, image_batch in zip(texts.with_format("arrow").iter(BATCH), image_batches, strict=False):
            image = None if image_batch is None else image_batch.column("image").combine_chunks()
            for place, cells in enumerate(_text_cells(batch)):
                # Counted from 0, as pandas and the Hub show it.
                number = first + place
                where = f"{label}-{number:07d}" if numbered else f"{label} row {number}"
                if cells is None:
                    yield RowIssue(NOT_UTF8, where)
                    continue
                if image is not None:
                    content, path = image.field("bytes")[place], image.field("path")[place]
                    cells[names.image] = EncodedImage(number, content) if content.is_valid else path.as_py()
                yield RawRow(where, name_classes(cells, texts.features))
            first += len(batch)

    return Table(names, rows(), images=images, numbered=numbered, **more)


def _text_cells(batch: "RecordBatch") -> Iterator[dict[str, object] | None]:
    """The cells of each row; None for a row with text that isn't UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            yield None
        else:
            for number in range(batch.num_rows):
                yield from _text_cells(batch.slice(number, 1))


def parquet_tables(folder: "ImageFolder", columns: Columns, issues: list[RowIssue]) -> list[Table]:
    """The Parquet files of a folder that can be read; the others are added to ``issues``."""
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
    """What ``save_to_disk`` of `datasets` wrote, with the splits that it gives."""
    import datasets

    path = Path(folder.folder)
    with loading(f"data.path={path}", "a saved data set"):
        saved = datasets.load_from_disk(str(path))
    named = saved if isinstance(saved, datasets.DatasetDict) else {None: saved}
    files = [file["filename"] for table in named.values() for file in table.cache_files]
    if outside := [file for file in files if not folder.holds(file)]:
        raise UserError(f"data.path={path}: names a file outside of the data folder ({outside[0]})")
    return dataset_tables(named, path.name, columns)


def dataset_tables(named: Mapping[str | None, "Dataset"], label: str, columns: Columns) -> list[Table]:
    """The tables of a ``DatasetDict``, by their splits; ``label`` is of one without a split."""
    return [dataset_table(table, split or label, columns, split=split, numbered=True) for split, table in named.items()]
