"""A folder of pictures with their captions beside them, as rows."""

import posixpath
from dataclasses import asdict
from pathlib import Path

from captioning.data.rows import USUAL, Columns, Rows
from captioning.data.sources.paths import PictureFolder, is_utf8
from captioning.data.sources.row_builder import NO_PICTURE, UNCAPTIONED, Cells, Draft
from captioning.data.sources.split_names import splits_of_files
from captioning.data.sources.table import add_file
from captioning.data.sources.text_files import NOT_UTF8, LineFile, open_text
from captioning.errors import UserError

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def read_folder(
    path: Path, *, images: Path | None = None, columns: Columns = USUAL, below: PictureFolder | None = None
) -> Rows:
    """The pictures of a folder with metadata files in it or its subfolders, or a ``NAME.txt`` beside each picture.

    A line of ``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet`` names a picture, relative to the file's own
    folder or to ``images``, and holds its caption or a list of them; lines that name the same picture are put
    together. In a ``NAME.txt`` each line is a caption. Subfolders called ``train``, ``val`` or ``test`` (at least two
    of these) give the split, unless a column does: a folder that ``datasets`` reads as an ``imagefolder`` is read here
    too. A row's id is by default the picture's path below the folder.

    Args:
        path: the folder.
        images: where pictures are looked for; in the folder when not given.
        columns: what the user calls the columns of metadata.
        below: the folder, where it has been listed already.

    Raises:
        UserError: no such columns, or nothing usable.
    """
    folder = below or PictureFolder(path)
    pictures = PictureFolder(images) if images else folder
    draft = Draft()
    _read(draft, folder, pictures, columns)
    return draft.rows_of_files(str(path), pictures)


def _read(draft: Draft, folder: PictureFolder, pictures: PictureFolder, columns: Columns) -> None:
    names = pictures.pictures()
    metadata = metadata_files(folder)
    if not names and not metadata:
        raise UserError(f"data.path={folder.folder}: no pictures in {pictures.folder}")
    if metadata:
        named = _read_metadata(draft, folder, metadata, pictures, columns)
    else:
        for what, column in asdict(columns).items():
            if column:
                raise UserError(
                    f"data.{what}_column={column}: captions in NAME.txt have no columns; write metadata.jsonl or .csv"
                )
        named = _read_sidecars(draft, folder, pictures, names)
    if pictures is folder:  # a folder of their own may hold the pictures of other data as well
        for name in names:
            if name not in named:
                draft.fail(UNCAPTIONED, name)
    for trouble, name in folder.left_out():
        if name not in named:
            draft.fail(trouble, name)


def metadata_files(folder: PictureFolder) -> list[str]:
    """The metadata files below a folder: in each of its subfolders the first of METADATA_FILES that is there."""
    found = {name for name in folder.files() if posixpath.basename(name) in METADATA_FILES}
    first = []
    for parent in sorted({posixpath.dirname(name) for name in found}):
        choices = [posixpath.join(parent, base) for base in METADATA_FILES]
        first.append(next(name for name in choices if name in found))
    return first


def has_sidecars(folder: PictureFolder) -> bool:
    """Whether there is a ``NAME.txt`` beside some picture of a folder."""
    return not _sidecars(folder).keys().isdisjoint(posixpath.splitext(name)[0] for name in folder.pictures())


def _sidecars(folder: PictureFolder) -> dict[str, str]:
    return {posixpath.splitext(name)[0]: name for name in folder.files() if name.lower().endswith(".txt")}


def _read_metadata(
    draft: Draft, folder: PictureFolder, files: list[str], pictures: PictureFolder, columns: Columns
) -> set[str]:
    """Puts the lines of all files into the draft; returns the names of pictures in them."""
    named: set[str] = set()
    splits = splits_of_files(files)
    for name in files:
        file = LineFile(Path(folder.find(name).path), name)
        base = posixpath.dirname(name) if pictures is folder else ""
        named |= add_file(draft, file, file.column_names(), columns, pictures, base=base, split=splits[name])
    return named


def _read_sidecars(draft: Draft, folder: PictureFolder, pictures: PictureFolder, names: list[str]) -> set[str]:
    """Puts the captions beside pictures into the draft; returns the names of pictures that have some."""
    sidecars = _sidecars(folder)
    splits = splits_of_files(names)
    named = set()
    for name in names:
        sidecar = sidecars.get(posixpath.splitext(name)[0])
        if sidecar is not None:
            captions = _lines_of(draft, Path(folder.find(sidecar).path), sidecar)
            named.add(draft.add_file(Cells(name, captions, split=splits[name]), pictures, sidecar))
    stems = {posixpath.splitext(name)[0] for name in names}
    for stem in sorted(sidecars.keys() - stems):
        draft.fail(NO_PICTURE, f"{sidecars[stem]} (no picture of that name)")
    return named


def _lines_of(draft: Draft, file: Path, name: str) -> list[str]:
    captions = []
    with open_text(file) as text:
        for number, line in enumerate(text, 1):
            if is_utf8(line):
                captions.append(line)
            else:
                draft.fail(NOT_UTF8, f"{name} line {number}")
    return captions
