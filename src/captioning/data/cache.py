"""Every image is decoded once: what is found of it, and its pixels, are kept for the next epoch and the next run."""

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL
import transformers
from filelock import FileLock
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress

from captioning.data.duplicates import look
from captioning.data.images import ImageSource, open_image, read_bytes
from captioning.data.pixel_file import PixelFile, PixelWriter, writing_pixels
from captioning.data.rows import RowIssue, Rows
from captioning.data.transforms import to_pixels
from captioning.errors import UserError
from captioning.files import replacing

if TYPE_CHECKING:
    from datasets import Dataset

_log = logging.getLogger(__name__)
VERSION = 1  # of what is kept; another version is made anew
CHUNK = 256  # rows in memory at a time
SHARE_OF_FREE_DISK = 0.5  # that pixels take without being told to


class ImageInfo(NamedTuple):
    """What decoding an image tells of it."""

    trouble: str  # why it can't be used; empty: it can
    digest: str = ""  # of the encoded image
    width: int = 0  # in pixels, as seen
    height: int = 0
    mode: str = ""  # PIL's, before conversion to RGB
    turned: bool = False  # its EXIF says that it lies on its side
    frames: int = 1  # of an animation, whose first is used
    look: bytes = b""  # for near-duplicates


class Examined(NamedTuple):
    """Rows whose images can be used."""

    rows: Rows
    facts: list[ImageInfo]  # of each row's image
    pixels: PixelFile | None  # where they are kept
    cache_index: np.ndarray  # (rows,), the place of each row's image in ``pixels``


def decode_all(rows: Rows, **how: Any) -> Examined:
    """The rows whose images can be decoded; the others become problems. Keywords are those of :func:`examine`."""
    facts, pixels = examine(rows.table, **how)
    good = [row for row, found in enumerate(facts) if not found.trouble]
    if len(good) < len(facts):
        ids = rows.ids
        troubles = [(ids[row], found.trouble) for row, found in enumerate(facts) if found.trouble]
        rows = rows.select(good, [RowIssue(f"image can't be read: {trouble}", name) for name, trouble in troubles])
    return Examined(rows, [facts[row] for row in good], pixels, np.array(good, np.int64))


def data_fingerprint(rows: Rows, facts: Sequence[ImageInfo]) -> str:
    """A hash of ids, captions, given splits and encoded images, wherever they are."""
    digest = blake2b(digest_size=16)
    for name, captions, split, found in zip(rows.ids, rows.captions, rows.column("split"), facts, strict=True):
        digest.update(repr((name, captions, split, found.digest)).encode())
    return digest.hexdigest()


def examine(
    table: "Dataset", *, image_processor: Any, cache_dir: Path, keep_pixels: bool | None = None
) -> tuple[list[ImageInfo], PixelFile | None]:
    """Decode the images of all rows, unless that was done before.

    What is found is kept in ``cache_dir`` under a key of the processor, and of the images' paths, sizes and times of
    change (of images within a file: of that file's; of others in memory: of their bytes). Two processes don't do the
    same work: the second waits for the first. A file there is whole or absent.

    Args:
        table: the ``id`` and ``image`` of each row.
        image_processor: makes the pixels.
        cache_dir: where all is kept.
        keep_pixels: whether pixels are kept; None: if they take no more than half of the free disk.

    Raises:
        UserError: pixels must be kept, and can't be.
    """
    key = f"{stamp(table)}-{_stamp_of_processor(image_processor)}"
    facts_file, pixels_file = cache_dir / f"{key}.parquet", cache_dir / f"{key}.npy"
    shape = _shape(image_processor)
    keep = keep_pixels is not False

    def known() -> tuple[list[ImageInfo], PixelFile | None] | None:
        try:
            return _read_facts(facts_file), PixelFile(pixels_file).open() if keep else None
        except (OSError, ValueError):  # there is none yet, or somebody damaged it
            return None

    try:
        keep = keep and (pixels_file.exists() or _has_room(pixels_file, len(table), shape, keep_pixels))
        if found := known():
            return found
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(facts_file.with_suffix(".lock")):
            return known() or _examine_and_keep(
                table, image_processor, facts_file, pixels_file if keep else None, shape
            )
    except OSError as error:
        reason = f"data.cache_dir={cache_dir}: what was read can't be kept ({error.strerror or error})"
        if keep_pixels:
            raise UserError(f"{reason}; make room, name another disk, or set data.cache=false") from error
        _log.warning(f"{reason}, so images are decoded again at each visit")
        return list(_facts(table, image_processor, None)), None


def stamp(table: "Dataset") -> str:
    """A short hash that changes when an image does, found without decoding any."""
    digest = blake2b(f"{VERSION}/{PIL.__version__}".encode(), digest_size=12)
    if _is_in_files(table):
        files = [_stamp_of_file(file["filename"]) for file in table.cache_files]
        digest.update(repr((files, table["id"][:])).encode())
        return digest.hexdigest()
    for start in range(0, len(table), CHUNK):
        chunk = table[start : start + CHUNK]
        for name, image in zip(chunk["id"], chunk["image"], strict=True):
            digest.update(repr((name, _stamp_of_image(image))).encode())
    return digest.hexdigest()


def _shape(image_processor: Any) -> tuple[int, ...]:
    square, wide = (to_pixels(Image.new("RGB", size), image_processor).shape for size in ((64, 64), (128, 64)))
    if square != wide:
        raise UserError(
            "model.checkpoint: its processor gives images of different shapes, which no batch can hold; "
            "data.fit=crop (or pad, or squash) gives all of them one"
        )
    return square


def _stamp_of_image(image: ImageSource | None) -> Any:
    if image is None or image["path"] is None or image["bytes"] is not None:
        return image and image["bytes"] and blake2b(image["bytes"], digest_size=16).digest()
    return _stamp_of_file(image["path"])


def _stamp_of_file(path: str) -> Any:
    try:
        status = os.stat(path)  # noqa: PTH116  half the time of Path.stat, and there may be millions
    except OSError as error:
        return path, error.errno
    # Archives give back old times of modification; the time of change tells the truth.
    return path, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_in_files(table: "Dataset") -> bool:
    """Whether all images are within the files that the table is mapped from, which may be far larger than memory."""
    import pyarrow.compute as pc

    return bool(table.cache_files) and pc.struct_field(table.data["image"], "bytes").null_count == 0


def _stamp_of_processor(image_processor: Any) -> str:
    settings = json.dumps([transformers.__version__, image_processor.to_dict()], sort_keys=True, default=str)
    return blake2b(settings.encode(), digest_size=6).hexdigest()


def _has_room(path: Path, count: int, shape: tuple[int, ...], required: bool | None) -> bool:
    needed = count * math.prod(shape)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed > free and required:
        raise UserError(
            f"data.cache=true: the pixels of {count:,} images take {decimal(needed)}, and {decimal(free)} are free "
            f"in {folder}; name another disk with data.cache_dir=DIR, or leave data.cache out"
        )
    if needed > SHARE_OF_FREE_DISK * free and not required:
        _log.warning(
            f"the pixels of {count:,} images would take {decimal(needed)} of the {decimal(free)} that are free in "
            f"{folder}, so images are decoded again at each visit; data.cache_dir=DIR names another disk, "
            "data.cache=true keeps them here"
        )
        return False
    return True


def _examine_and_keep(
    table: "Dataset", image_processor: Any, facts_file: Path, pixels_file: Path | None, shape: tuple[int, ...]
) -> tuple[list[ImageInfo], PixelFile | None]:
    pixels = f"their pixels, {decimal(len(table) * math.prod(shape))}, are" if pixels_file else "what is found is"
    _log.info(f"reading {len(table):,} images once; {pixels} kept in {facts_file.parent}")
    with writing_pixels(pixels_file, len(table), shape) if pixels_file else nullcontext() as writer:
        facts = list(_facts(table, image_processor, writer))
    _write_facts(facts_file, facts)
    return facts, PixelFile(pixels_file).open() if pixels_file else None


def _facts(table: "Dataset", image_processor: Any, writer: PixelWriter | None) -> Iterator[ImageInfo]:
    first_process = _log.isEnabledFor(logging.INFO)
    progress = Progress(console=Console(stderr=True), transient=True, disable=not first_process)
    with (
        ThreadPoolExecutor(available_cores() + 1) as pool,  # one more, as PIL works without the GIL, and Python with it
        progress,
    ):
        task = progress.add_task("reading images", total=len(table))
        for start in range(0, len(table), CHUNK):  # or every image's bytes would be in memory
            images = table[start : start + CHUNK]["image"]
            rows = range(start, start + len(images))
            for facts in pool.map(lambda row, image: _examine_one(row, image, image_processor, writer), rows, images):
                progress.advance(task)
                yield facts


def _examine_one(row: int, source: ImageSource | None, image_processor: Any, writer: PixelWriter | None) -> ImageInfo:
    try:
        encoded = read_bytes(source)
    except OSError as error:
        return ImageInfo(trouble=error.strerror or str(error))
    if not encoded:
        return ImageInfo(trouble="empty file")
    try:
        image, mode, turned, frames = open_image(encoded)
        appearance = look(image)
        pixels = to_pixels(image, image_processor)
    except UnidentifiedImageError:
        return ImageInfo(trouble="not an image")
    except OSError as error:
        # In parentheses it says how many bytes or pixels, which make no other kind of trouble.
        return ImageInfo(trouble=re.sub(r" ?\(.*?\)", "", str(error)))
    if writer:
        writer.write(row, pixels)
    digest = blake2b(encoded, digest_size=16).hexdigest()
    return ImageInfo("", digest, image.width, image.height, mode, turned, frames, appearance)


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_facts(path: Path, facts: list[ImageInfo]) -> None:
    import pyarrow as pa  # a fifth of a second, which a mistake needn't wait for
    import pyarrow.parquet as pq

    columns = {name: [getattr(found, name) for found in facts] for name in ImageInfo._fields}
    with replacing(path) as part:
        pq.write_table(pa.table(columns), part)


def _read_facts(path: Path) -> list[ImageInfo]:
    import pyarrow.parquet as pq

    columns = pq.read_table(path).to_pydict()
    return [ImageInfo(*values) for values in zip(*(columns[name] for name in ImageInfo._fields), strict=True)]
