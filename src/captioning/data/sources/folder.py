"""A folder of images with their captions beside them."""

import posixpath
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from captioning.data.rows import NO_IMAGE, Columns, RawRow, RowIssue
from captioning.data.sources.columns import ColumnNames, Table
from captioning.data.sources.paths import ImageFolder
from captioning.data.sources.split_names import splits_of_files
from captioning.data.sources.tables import NOT_UTF8, read_table
from captioning.data.sources.text_files import is_utf8, open_text
from captioning.errors import UserError

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def metadata_files(folder: ImageFolder) -> list[str]:
    """The metadata files below a folder: in each of its subfolders the first of METADATA_FILES that is there."""
    found = [name for name in folder.files() if posixpath.basename(name) in METADATA_FILES]
    by_preference = sorted(found, key=lambda name: METADATA_FILES.index(posixpath.basename(name)), reverse=True)
    return sorted({posixpath.dirname(name): name for name in by_preference}.values())


def metadata_tables(folder: ImageFolder, image_folder: ImageFolder, columns: Columns) -> Iterator[Table]:
    """The metadata files of a folder, which name images relative to their own folder or to ``image_folder``."""
    files = metadata_files(folder)
    splits = splits_of_files(files)
    for name in files:
        base = posixpath.dirname(name) if image_folder is folder else ""
        yield read_table(Path(folder.find(name).path), name, columns, split=splits[name], base=base)


def sidecars(folder: ImageFolder) -> dict[str, str]:
    """The text files of a folder by their names without the suffix."""
    return {posixpath.splitext(name)[0]: name for name in folder.files() if name.lower().endswith(".txt")}


def sidecar_table(folder: ImageFolder, image_folder: ImageFolder, columns: Columns) -> Table:
    """The lines of each ``NAME.txt`` as the captions of the image ``NAME``."""
    if given := [(setting, name) for setting, name in asdict(columns).items() if name]:
        raise UserError(
            "data.{}_column={}: captions in NAME.txt have no columns; write metadata.jsonl or .csv".format(*given[0])
        )

    def rows() -> Iterator[RawRow | RowIssue]:
        texts, names = sidecars(folder), image_folder.images()
        splits = splits_of_files(names)
        for name in names:
            sidecar = texts.get(posixpath.splitext(name)[0])
            if sidecar is None:
                continue
            with open_text(Path(folder.find(sidecar).path)) as text:
                lines = list(text)
            captions = [line for line in lines if is_utf8(line)]
            bad = [number for number, line in enumerate(lines, 1) if not is_utf8(line)]
            yield from (RowIssue(NOT_UTF8, f"{sidecar} line {number}") for number in bad)
            yield RawRow(sidecar, {"file_name": name, "text": captions, "split": splits[name]})
        for stem in sorted(texts.keys() - {posixpath.splitext(name)[0] for name in names}):
            yield RowIssue(NO_IMAGE, f"{texts[stem]} (no image of that name)")

    return Table(ColumnNames("file_name", ("text",), split="split"), rows())
