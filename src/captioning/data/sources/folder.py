"""A folder of images with their captions beside them, as rows."""

import posixpath
from dataclasses import asdict
from pathlib import Path

from captioning.data.rows import USUAL, Columns, Rows
from captioning.data.sources.paths import ImageFolder, is_utf8
from captioning.data.sources.row_builder import NO_IMAGE, UNCAPTIONED, Cells, RowBuilder
from captioning.data.sources.split_names import splits_of_files
from captioning.data.sources.table import add_file
from captioning.data.sources.text_files import NOT_UTF8, LineFile, open_text
from captioning.errors import UserError

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def read_folder(
    path: Path, *, images: Path | None = None, columns: Columns = USUAL, below: ImageFolder | None = None
) -> Rows:
    """The images of a folder with metadata files in it or its subfolders, or a ``NAME.txt`` beside each image.

    A line of ``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet`` names an image, relative to the file's own
    folder or to ``images``, and holds its caption or a list of them; lines that name the same image are put
    together. In a ``NAME.txt`` each line is a caption. Subfolders called ``train``, ``val`` or ``test`` (at least two
    of these) give the split, unless a column does: a folder that ``datasets`` reads as an ``imagefolder`` is read here
    too. A row's id is by default the image's path below the folder.

    Args:
        path: the folder.
        images: where images are looked for; in the folder when not given.
        columns: what the user calls the columns of metadata.
        below: the folder, where it has been listed already.

    Raises:
        UserError: no such columns, or nothing usable.
    """
    folder = below or ImageFolder(path)
    image_folder = ImageFolder(images) if images else folder
    draft = RowBuilder()
    _read(draft, folder, image_folder, columns)
    return draft.rows_of_files(str(path), image_folder)


def _read(draft: RowBuilder, folder: ImageFolder, image_folder: ImageFolder, columns: Columns) -> None:
    names = image_folder.images()
    metadata = metadata_files(folder)
    if not names and not metadata:
        raise UserError(f"data.path={folder.folder}: no images in {image_folder.folder}")
    if metadata:
        named = _read_metadata(draft, folder, metadata, image_folder, columns)
    else:
        for what, column in asdict(columns).items():
            if column:
                raise UserError(
                    f"data.{what}_column={column}: captions in NAME.txt have no columns; write metadata.jsonl or .csv"
                )
        named = _read_sidecars(draft, folder, image_folder, names)
    if image_folder is folder:  # a folder of their own may hold the images of other data as well
        for name in names:
            if name not in named:
                draft.fail(UNCAPTIONED, name)
    for trouble, name in folder.left_out():
        if name not in named:
            draft.fail(trouble, name)


def metadata_files(folder: ImageFolder) -> list[str]:
    """The metadata files below a folder: in each of its subfolders the first of METADATA_FILES that is there."""
    found = {name for name in folder.files() if posixpath.basename(name) in METADATA_FILES}
    first = []
    for parent in sorted({posixpath.dirname(name) for name in found}):
        choices = [posixpath.join(parent, base) for base in METADATA_FILES]
        first.append(next(name for name in choices if name in found))
    return first


def has_sidecars(folder: ImageFolder) -> bool:
    """Whether there is a ``NAME.txt`` beside some image of a folder."""
    return not _sidecars(folder).keys().isdisjoint(posixpath.splitext(name)[0] for name in folder.images())


def _sidecars(folder: ImageFolder) -> dict[str, str]:
    return {posixpath.splitext(name)[0]: name for name in folder.files() if name.lower().endswith(".txt")}


def _read_metadata(
    draft: RowBuilder, folder: ImageFolder, files: list[str], image_folder: ImageFolder, columns: Columns
) -> set[str]:
    """Puts the lines of all files into the draft; returns the names of images in them."""
    named: set[str] = set()
    splits = splits_of_files(files)
    for name in files:
        file = LineFile(Path(folder.find(name).path), name)
        base = posixpath.dirname(name) if image_folder is folder else ""
        named |= add_file(draft, file, file.column_names(), columns, image_folder, base=base, split=splits[name])
    return named


def _read_sidecars(draft: RowBuilder, folder: ImageFolder, image_folder: ImageFolder, names: list[str]) -> set[str]:
    """Puts the captions beside images into the draft; returns the names of images that have some."""
    sidecars = _sidecars(folder)
    splits = splits_of_files(names)
    named = set()
    for name in names:
        sidecar = sidecars.get(posixpath.splitext(name)[0])
        if sidecar is not None:
            captions = _lines_of(draft, Path(folder.find(sidecar).path), sidecar)
            named.add(draft.add_file(Cells(name, captions, split=splits[name]), image_folder, sidecar))
    stems = {posixpath.splitext(name)[0] for name in names}
    for stem in sorted(sidecars.keys() - stems):
        draft.fail(NO_IMAGE, f"{sidecars[stem]} (no image of that name)")
    return named


def _lines_of(draft: RowBuilder, file: Path, name: str) -> list[str]:
    captions = []
    with open_text(file) as text:
        for number, line in enumerate(text, 1):
            if is_utf8(line):
                captions.append(line)
            else:
                draft.fail(NOT_UTF8, f"{name} line {number}")
    return captions
