"""Captioned images in whatever shape they are, as :class:`captioning.data.rows.Rows`."""

import os
import posixpath
from collections.abc import Iterable
from pathlib import Path

from captioning.data.rows import UNCAPTIONED, USUAL, Columns, RowIssue, Rows, describe
from captioning.data.shards import read_shards
from captioning.data.sources.coco import COCO_FOLDERS, json_table
from captioning.data.sources.columns import Table
from captioning.data.sources.folder import metadata_files, metadata_tables, sidecar_table, sidecars
from captioning.data.sources.hub import read_hub
from captioning.data.sources.paths import ImageFolder
from captioning.data.sources.row_builder import RowBuilder
from captioning.data.sources.tables import TABLE_SUFFIXES, is_saved, parquet_tables, read_table, saved_tables
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
    """Captioned images on this machine; their shape is detected automatically.

    An id is by default the image's path below its folder, or where an image is within a Parquet file a digest of it;
    rows with one id are one image.

    Args:
        path: a folder (with metadata files, a ``NAME.txt`` beside each image, Parquet files, tar shards, or saved by
            ``datasets``), or a file (COCO's or Karpathy's JSON, CSV, JSONL, Parquet, a tar shard, or a pattern, an
            address or a command for some).
        images: the folder that image names are relative to, of which nothing outside is read; by default the captions'.
        columns: what the columns are called.
        cache_dir: where tar shards are copied to; by default beside the copies of ``datasets``.

    Raises:
        UserError: nothing there, nothing in it that could be read as one of these, no such columns, or nothing usable.
    """
    image_folder = None if images is None else Path(images).expanduser()
    if image_folder is not None and not image_folder.is_dir():
        raise UserError(f"data.images={images}: no such folder; it must hold the images")
    place = Path(path).expanduser()
    if os.path.isdir(place):  # noqa: PTH112  Path.is_dir fails for a long command or pattern
        folder = ImageFolder(place)
        return _read_folder(folder, ImageFolder(image_folder) if image_folder else folder, columns, cache_dir)
    if is_shards(path):
        return read_shards(tar_shards(path, columns=columns), cache_dir=cache_dir)
    if not os.path.isfile(place):  # noqa: PTH113
        raise UserError(
            f"data.path={path}: no such folder or file; a data set of the Hub is read with data=hub data.path=USER/NAME"
        )
    is_json = place.suffix.lower() == ".json"
    builder = RowBuilder(ImageFolder(image_folder or place.parent, subfolders=COCO_FOLDERS if is_json else ()))
    if is_json:
        builder.add(json_table(place, builder.folder, columns))
    elif place.suffix.lower() in TABLE_SUFFIXES:
        builder.add(read_table(place, place.name, columns))
    else:
        suffixes = ", ".join((".json", *TABLE_SUFFIXES, ".tar"))
        raise UserError(f"data.path={path}: no file of captions ({suffixes}), and no folder")
    return builder.rows(str(place))


def _read_folder(folder: ImageFolder, image_folder: ImageFolder, columns: Columns, cache_dir: Path | None) -> Rows:
    """The shapes that a folder may have, in the order in which they are looked for."""
    path, files = folder.folder, folder.files()
    builder, texts = RowBuilder(image_folder), sidecars(folder)
    has_sidecars = not texts.keys().isdisjoint(posixpath.splitext(name)[0] for name in folder.images())
    tables: Iterable[Table]
    uncaptioned = image_folder is folder  # a folder of images of their own may hold those of other data as well
    if is_saved(folder):
        tables, uncaptioned = saved_tables(folder, columns), False
    elif metadata_files(folder):
        tables = metadata_tables(folder, image_folder, columns)
    elif any(map(is_shards, files)) and not has_sidecars:  # an archive beside captioned images is one of these
        return read_shards(tar_shards(path, columns=columns), cache_dir=cache_dir)
    elif any(name.lower().endswith(".parquet") for name in files):
        tables, uncaptioned = parquet_tables(folder, columns, builder.issues), False
    elif texts and image_folder.images():
        tables = [sidecar_table(folder, image_folder, columns)]
    else:
        found = [name for name in files if posixpath.splitext(name)[1].lower() in (".json", *TABLE_SUFFIXES)]
        hint = f"; to read one file, name it: data.path={path}/{found[0]}" if found else ""
        if left_out := folder.left_out():
            hint += f"; can't be used: {describe(left_out)}"
        raise UserError(f"data.path={path}: no captions in this folder (looked for {SHAPES}){hint}")
    for table in tables:
        builder.add(table)
    issues = [RowIssue(UNCAPTIONED, name) for name in folder.images()] if uncaptioned else []
    builder.issues += (issue for issue in (*issues, *folder.left_out()) if issue.name not in builder.names)
    return builder.rows(path)
