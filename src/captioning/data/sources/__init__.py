"""CaptionResult images in whatever shape they are, as :class:`captioning.data.rows.Rows`."""

import os
import posixpath
from pathlib import Path

from captioning.data.rows import USUAL, Columns, Problem, Rows, describe
from captioning.data.shards import read_shards
from captioning.data.sources.coco import read_json
from captioning.data.sources.folder import has_sidecars, metadata_files, read_folder
from captioning.data.sources.hub import read_hub
from captioning.data.sources.paths import ImageFolder
from captioning.data.sources.saved import is_saved, read_saved
from captioning.data.sources.table import TABLE_SUFFIXES, read_table
from captioning.data.sources.tars import is_shards, tar_shards
from captioning.errors import UserError

__all__ = ["read_hub", "read_local"]

SHAPES = (
    "metadata.jsonl, metadata.csv or metadata.parquet, a NAME.txt beside an image, .parquet files, .tar shards, or "
    "what save_to_disk of datasets wrote"
)


def read_local(
    path: str, *, images: str | None = None, columns: Columns = USUAL, cache_dir: Path | None = None
) -> Rows:
    """CaptionResult images on this machine; the shape that they are in is told by what is there.

    Args:
        path: a folder (with metadata files, a ``NAME.txt`` beside each image, Parquet files, tar shards, or saved by
            ``datasets``), or a file (COCO's or Karpathy's JSON, CSV, JSONL, Parquet, a tar shard, or a pattern, an
            address or a command for some).
        images: the folder that images are below and that their names are relative to; that of the captions when not
            given. Nothing outside of it is read.
        columns: what the columns are called.
        cache_dir: where tar shards are copied to; beside the copies of ``datasets`` when not given.

    Raises:
        UserError: nothing there, nothing in it that could be read as one of these, no such columns, or nothing usable.
    """
    image_folder = None if images is None else Path(images).expanduser()
    if image_folder is not None and not image_folder.is_dir():
        raise UserError(f"data.images={images}: no such folder; it must hold the images")
    place = Path(path).expanduser()
    if os.path.isdir(place):  # noqa: PTH112  Path.is_dir fails for a long command or pattern
        return _read_folder(place, image_folder, columns, cache_dir)
    if is_shards(path):
        return read_shards(tar_shards(path, columns=columns), cache_dir=cache_dir)
    if not os.path.isfile(place):  # noqa: PTH113
        raise UserError(
            f"data.path={path}: no such folder or file; a data set of the Hub is read with data=hub data.path=USER/NAME"
        )
    suffix = place.suffix.lower()
    if suffix == ".json":
        return read_json(place, images=image_folder, columns=columns)
    if suffix in TABLE_SUFFIXES:
        return read_table(place, images=image_folder, columns=columns)
    raise UserError(f"data.path={path}: no file of captions (.json, {', '.join(TABLE_SUFFIXES)}, .tar), and no folder")


def _read_folder(folder: Path, images: Path | None, columns: Columns, cache_dir: Path | None) -> Rows:
    if is_saved(folder):
        return read_saved(folder, images=images, columns=columns)
    below = ImageFolder(folder)
    files = below.files()
    suffixes = {posixpath.splitext(name)[1].lower() for name in files}
    if metadata_files(below):
        return read_folder(folder, images=images, columns=columns, below=below)
    if any(map(is_shards, files)) and not has_sidecars(below):  # or it is an archive of what is beside it
        return read_shards(tar_shards(str(folder), columns=columns), cache_dir=cache_dir)
    if ".parquet" in suffixes:
        return read_table(folder, images=images, columns=columns, below=below)
    if ".txt" in suffixes and (images or below.images()):
        return read_folder(folder, images=images, columns=columns, below=below)
    tables = [name for name in files if posixpath.splitext(name)[1].lower() in (".json", *TABLE_SUFFIXES)]
    hint = f"; to read one file, name it: data.path={folder / tables[0]}" if tables else ""
    if left_out := below.left_out():
        hint += f"; can't be used: {describe([Problem(*each) for each in left_out])}"
    raise UserError(f"data.path={folder}: no captions in this folder (looked for {SHAPES}){hint}")
