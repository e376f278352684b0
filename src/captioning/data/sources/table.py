"""Tables of captions: CSV, JSONL and Parquet, as rows."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.data.rows import USUAL, Columns, Rows
from captioning.data.sources.columns import ColumnNames, find_columns
from captioning.data.sources.datasets_tables import Part, read_parts
from captioning.data.sources.paths import ImageFolder
from captioning.data.sources.row_builder import RowBuilder
from captioning.data.sources.split_names import splits_of_files
from captioning.data.sources.text_files import UNREADABLE, Line, LineFile
from captioning.errors import UserError, reason

if TYPE_CHECKING:
    from datasets import Dataset

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def read_table(
    path: Path, *, images: Path | None = None, columns: Columns = USUAL, below: ImageFolder | None = None
) -> Rows:
    """The images and captions of a CSV, TSV, JSONL or Parquet file, or of a folder of Parquet files.

    An image is a path below ``images`` (the table's own folder by default), the address that a file there was
    downloaded from, or in Parquet the encoded image itself. Lines with the same image become one row, unless a
    column of ids says which lines belong together. An id is by default the image's path, or where there is none a
    digest of the encoded image. Parquet files called ``train…``, ``val…`` or ``test…`` (at least two of these) give
    the split, unless a column does.

    Args:
        path: the file, or the folder.
        images: where images are looked for.
        columns: what the user calls the columns.
        below: the folder, where it has been listed already.

    Raises:
        UserError: a file can't be read, there are no such columns, or nothing usable.
    """
    folder = below or ImageFolder(path if path.is_dir() else path.parent)
    names = [name for name in folder.files() if name.endswith(".parquet")] if path.is_dir() else [path.name]
    image_folder = ImageFolder(images) if images else folder
    splits = splits_of_files(names, by_stem=True)
    draft = RowBuilder()
    for trouble, name in folder.left_out() if path.is_dir() else ():
        draft.fail(trouble, name)
    files = _usable_files(draft, [LineFile(Path(folder.find(name).path), name) for name in names], columns)
    if files and files[0][0].holds_images(find_columns(files[0][0].label, files[0][1], columns).image):
        parts = _parts_of(draft, [file for file, _ in files], splits)
        return read_parts(parts, str(path), columns, image_folder, ids_by_content=True, problems=draft.problems)
    for file, column_names in files:
        add_file(draft, file, column_names, columns, image_folder, split=splits[file.label])
    return draft.rows_of_files(str(path), image_folder)


def _usable_files(draft: RowBuilder, files: list[LineFile], columns: Columns) -> list[tuple[LineFile, list[str]]]:
    """The files that can be read and have the columns, with all their columns; the others become problems.

    Raises:
        UserError: there are none.
    """
    usable, errors = [], []
    for file in files:
        kind = UNREADABLE
        try:
            column_names = file.column_names()
            kind = "file lacks a column"
            if column_names:
                find_columns(file.label, column_names, columns)
            usable.append((file, column_names))
        except UserError as error:
            errors.append(error)
            draft.fail(kind, file.label)
    if errors and not usable:
        raise errors[0]
    return usable


def _parts_of(draft: RowBuilder, files: list[LineFile], splits: Mapping[str, str | None]) -> list[Part]:
    """The files that can be loaded; the others become problems.

    Raises:
        UserError: there are none.
    """
    parts, errors = [], []
    for file in files:
        try:
            parts.append(Part(_load(file.path), splits[file.label], file.label))
        except UserError as error:
            errors.append(error)
            draft.fail(UNREADABLE, file.label)
    if errors and not parts:
        raise errors[0]
    return parts


def read_records(records: Iterable[Any], path: Path, *, images: Path | None = None, columns: Columns = USUAL) -> Rows:
    """The same of a JSON file that is a list of objects, one for each line of a table.

    Raises:
        UserError: there are no such columns, or nothing usable.
    """
    draft = RowBuilder()
    lines = []
    for number, record in enumerate(records, 1):
        if isinstance(record, dict):
            lines.append(Line(f"{path.name} item {number}", record))
        else:
            draft.fail("item isn't a JSON object", f"{path.name} item {number}")
    image_folder = ImageFolder(images or path.parent)
    if lines:
        names = list(dict.fromkeys(name for line in lines for name in line.cells))
        add_lines(draft, lines, find_columns(path.name, names, columns), image_folder)
    return draft.rows_of_files(str(path), image_folder)


def add_file(
    draft: RowBuilder,
    file: LineFile,
    column_names: list[str],
    columns: Columns,
    image_folder: ImageFolder,
    *,
    base: str = "",
    split: str | None = None,
) -> set[str]:
    """Puts the lines of a file that names its images into a draft, as :func:`add_lines` does.

    Raises:
        UserError: it lacks a column.
    """
    if not column_names:
        for _ in file.read(draft, []):  # for the problems alone
            pass
        return set()
    names = find_columns(file.label, column_names, columns)
    return add_lines(
        draft, file.read(draft, [names.image, *names.of_text]), names, image_folder, base=base, split=split
    )


def add_lines(
    draft: RowBuilder,
    lines: Iterable[Line],
    names: ColumnNames,
    image_folder: ImageFolder,
    *,
    base: str = "",
    split: str | None = None,
) -> set[str]:
    """Puts lines that name their images into a draft; returns the names.

    Args:
        draft: where they go.
        lines: the lines.
        names: which of their columns is which.
        image_folder: where images are looked for.
        base: the folder in there that names are relative to.
        split: of the lines that don't say it themselves.
    """
    named = set()
    for line in lines:
        cells = names.cells(line.cells)
        if split and cells.split in (None, ""):
            cells = cells._replace(split=split)
        named.add(draft.add_file(cells, image_folder, line.where, base=base, id_expected=names.id is not None))
    return named


def _load(file: Path) -> "Dataset":
    """A Parquet file as a memory-mapped table, so that images never are in memory all at once."""
    import datasets

    try:
        return datasets.Dataset.from_parquet(str(file))
    except Exception as error:  # what is wrong with a damaged file, Arrow and datasets say in many ways
        raise UserError(f"{file}: can't be read as Parquet ({reason(error.__cause__ or error)})") from error
