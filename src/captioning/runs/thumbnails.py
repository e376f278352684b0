"""Small copies of images in the run folder, for those who look at it without the data."""

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from captioning.files import replacing

NAME = "thumbnails.parquet"
LONGEST_SIDE = 128


def add_thumbnails(folder: Path, split: str, images: Mapping[str, Image.Image]) -> None:
    """Add images of a split, by id, to the run folder's thumbnails; one that is there already is replaced."""
    import pyarrow as pa  # here, because it takes a fifth of a second, and a mistake is answered before
    import pyarrow.parquet as pq

    thumbnails = read_thumbnails(folder) | {(split, name): small_jpeg(image) for name, image in images.items()}
    schema = pa.schema([("split", pa.string()), ("id", pa.string()), ("jpeg", pa.binary())])
    splits, ids = zip(*thumbnails, strict=True) if thumbnails else ((), ())
    table = pa.table([splits, ids, list(thumbnails.values())], schema=schema)
    with replacing(folder / NAME) as part:
        pq.write_table(table, part)


def read_thumbnails(folder: Path) -> dict[tuple[str, str], bytes]:
    """JPEGs by split and id; empty where the run folder has none."""
    if not (folder / NAME).exists():
        return {}
    import pyarrow.parquet as pq

    table = pq.read_table(folder / NAME)
    keys = zip(table["split"].to_pylist(), table["id"].to_pylist(), strict=True)
    return dict(zip(keys, table["jpeg"].to_pylist(), strict=True))


def small_jpeg(image: Image.Image, *, side: int = LONGEST_SIDE, quality: int = 80) -> bytes:
    """The image with sides of at most ``side`` pixels, encoded."""
    small = image.copy()
    small.thumbnail((side, side))
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=quality, optimize=True)
    return encoded.getvalue()
