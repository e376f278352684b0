"""The image cache: every image is decoded once, and its ImageInfo and pixels are kept for later epochs and runs."""

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL
import torch
import transformers
from filelock import FileLock
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress
from torch import Tensor
from transformers import BaseImageProcessor

from captioning.data.duplicates import perceptual_hash
from captioning.data.images import ImageSource, open_image, read_bytes
from captioning.data.rows import RowIssue, Rows
from captioning.data.transforms import to_pixels
from captioning.errors import UserError
from captioning.files import replacing, write_at

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)
VERSION = 2  # of the cached files; those of another version aren't read
CHUNK = 256  # rows in memory at a time
FREE_DISK_SHARE = 0.5  # that pixels may take unless data.cache=true

WritePixels = Callable[[int, np.ndarray], None]  # a row number and its pixels


class ImageInfo(NamedTuple):
    """What decoding an image tells about it."""

    error: str  # why it can't be used; empty: it can
    digest: str = ""  # of the encoded image
    width: int = 0  # in pixels, upright
    height: int = 0
    mode: str = ""  # PIL's, before conversion to RGB
    rotated: bool = False  # by its EXIF orientation
    frames: int = 1  # of an animation, whose first is used
    perceptual_hash: bytes = b""  # for near-duplicates


class ImageCache:
    """uint8 images of one shape in a memory-mapped file, which can be read even after it is deleted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pixels: np.ndarray = np.load(path, mmap_mode="c")  # copy on write: the file stays as it is

    def read(self, rows: Iterable[int]) -> list[Tensor]:
        """Images as uint8 (3, height, width)."""
        return [torch.from_numpy(self.pixels[row]) for row in rows]

    def __reduce__(self) -> tuple[type["ImageCache"], tuple[Path]]:
        return ImageCache, (self.path,)  # a mapping would be pickled with all that it maps


@contextmanager
def create_image_cache(path: Path, length: int, shape: tuple[int, ...]) -> Iterator[WritePixels]:
    """A function that writes images in any order and from any thread; the file appears once the block has ended."""
    with replacing(path) as part, part.open("wb") as file:
        layout = {"descr": "|u1", "fortran_order": False, "shape": (length, *shape)}
        np.lib.format.write_array_header_2_0(file, layout)
        header = file.tell()
        file.truncate(header + length * math.prod(shape))
        file.flush()
        yield lambda row, pixels: write_at(file.fileno(), pixels.tobytes(), header + row * math.prod(shape))


class Decoded(NamedTuple):
    """Rows whose images can be used."""

    rows: Rows
    image_infos: list[ImageInfo]  # of each row
    image_cache: ImageCache | None
    cache_index: np.ndarray  # (rows,), where each row's image is in ``image_cache``


def decode_all(
    rows: Rows, *, image_processor: BaseImageProcessor, cache_dir: Path, keep_pixels: bool | None = None
) -> Decoded:
    """Decode all images, unless that was done before; rows whose image can't be decoded become issues.

    The cache's key depends on the processor and on the images' paths, sizes and times of change (for images inside a
    file, on that file's; for others in memory, on their bytes). A second process waits for the first one's result.
    Pixels are by default kept if they take at most half of the free disk.

    Raises:
        UserError: pixels must be kept and can't be, or the processor gives images of different shapes.
    """
    infos, image_cache = _decode_or_load(rows.table, image_processor, cache_dir, keep_pixels)
    good = [row for row, info in enumerate(infos) if not info.error]
    if len(good) < len(infos):
        bad = [(name, info.error) for name, info in zip(rows.ids, infos, strict=True) if info.error]
        rows = rows.select(good, [RowIssue(f"image can't be read: {error}", name) for name, error in bad])
    return Decoded(rows, [infos[row] for row in good], image_cache, np.array(good, np.int64))


def data_fingerprint(rows: Rows, infos: Sequence[ImageInfo]) -> str:
    """A hash of ids, captions, given splits and encoded images; it doesn't depend on where they are."""
    digest = blake2b(digest_size=16)
    for name, captions, split, info in zip(rows.ids, rows.captions, rows.column("split"), infos, strict=True):
        digest.update(repr((name, captions, split, info.digest)).encode())
    return digest.hexdigest()


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_or_load(
    table: "Dataset", image_processor: BaseImageProcessor, cache_dir: Path, keep_pixels: bool | None
) -> tuple[list[ImageInfo], ImageCache | None]:
    import pyarrow as pa  # takes a fifth of a second
    import pyarrow.parquet as pq

    settings = json.dumps([transformers.__version__, image_processor.to_dict()], sort_keys=True, default=str)
    key = f"{_table_digest(table)}-{blake2b(settings.encode(), digest_size=6).hexdigest()}"
    infos_file, pixels_file = cache_dir / f"{key}.parquet", cache_dir / f"{key}.npy"
    shape, wide = (to_pixels(Image.new("RGB", size), image_processor).shape for size in ((64, 64), (128, 64)))
    if shape != wide:
        why = "model.checkpoint: its processor gives images of different shapes, which no batch can hold"
        raise UserError(f"{why}; data.fit=crop (or pad, or squash) gives all of them one")
    keep, size = keep_pixels is not False, len(table) * math.prod(shape)

    def load() -> tuple[list[ImageInfo], ImageCache | None] | None:
        with suppress(OSError, ValueError):  # absent or damaged
            columns = pq.read_table(infos_file).select(ImageInfo._fields).to_pydict()
            return list(map(ImageInfo, *columns.values())), ImageCache(pixels_file) if keep else None
        return None

    try:
        if keep and not pixels_file.exists():
            free = shutil.disk_usage(next(parent for parent in infos_file.absolute().parents if parent.exists())).free
            sizes = f"the image cache takes {decimal(size)}, and {decimal(free)} are free in {cache_dir}"
            if keep_pixels and size > free:
                raise UserError(f"data.cache=true: {sizes}; name another disk with data.cache_dir=DIR, or leave it out")
            if not keep_pixels and size > FREE_DISK_SHARE * free:
                keep = False
                ways_out = "data.cache_dir=DIR names another disk, data.cache=true keeps them here"
                log.warning(f"{sizes}, so images are decoded again in each epoch; {ways_out}")
        if loaded := load():
            return loaded
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(infos_file.with_suffix(".lock")):
            if loaded := load():
                return loaded
            where = f"; image cache: {decimal(size)} in {cache_dir}" if keep else ""
            log.info(f"decoding {len(table):,} images once{where}")
            with create_image_cache(pixels_file, len(table), shape) if keep else nullcontext() as write:
                infos = _decode_table(table, image_processor, write)
            with replacing(infos_file) as part:
                values = zip(*infos, strict=True) if infos else [[] for _ in ImageInfo._fields]
                pq.write_table(pa.table(dict(zip(ImageInfo._fields, map(list, values), strict=True))), part)
            return infos, ImageCache(pixels_file) if keep else None
    except OSError as error:
        reason = f"data.cache_dir={cache_dir}: images can't be cached ({error.strerror or error})"
        if keep_pixels:
            raise UserError(f"{reason}; make room, name another disk, or set data.cache=false") from error
        log.warning(f"{reason}, so they are decoded again in each epoch")
        return _decode_table(table, image_processor, None), None


def _table_digest(table: "Dataset") -> str:
    """A short hash that changes when an image does, computed without decoding any."""
    import pyarrow.compute as pc

    digest = blake2b(f"{VERSION}/{PIL.__version__}".encode(), digest_size=12)
    # Images inside the files that the table is mapped from may be far larger than memory.
    if table.cache_files and pc.struct_field(table.data["image"], "bytes").null_count == 0:
        files = [_file_stamp(file["filename"]) for file in table.cache_files]
        digest.update(repr((files, table["id"][:])).encode())
        return digest.hexdigest()
    for start in range(0, len(table), CHUNK):
        chunk = table[start : start + CHUNK]
        for name, image in zip(chunk["id"], chunk["image"], strict=True):
            source = image or {"bytes": None, "path": None}
            if source["bytes"] is not None:
                stamp: object = blake2b(source["bytes"], digest_size=16).digest()
            else:
                stamp = source["path"] and _file_stamp(source["path"])
            digest.update(repr((name, stamp)).encode())
    return digest.hexdigest()


def _file_stamp(path: str) -> tuple[object, ...]:
    with suppress(OSError):  # which is the row's issue when it is decoded
        status = os.stat(path)  # noqa: PTH116  half the time of Path.stat, and there may be millions
        # Archives restore old modification times; the change time is always new.
        return path, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return (path,)


def _decode_table(table: "Dataset", image_processor: BaseImageProcessor, write: WritePixels | None) -> list[ImageInfo]:
    def decode(row: int, source: ImageSource | None) -> ImageInfo:
        try:
            encoded = read_bytes(source)
            if not encoded:
                return ImageInfo(error="empty file")
            image, mode, rotated, frames = open_image(encoded)
            hashed = perceptual_hash(image)
            pixels = to_pixels(image, image_processor)
        except OSError as error:
            # Without the bytes or pixels in parentheses, or every image would have an error of its own.
            text = error.strerror or re.sub(r" ?\(.*?\)", "", str(error))
            return ImageInfo(error="not an image" if isinstance(error, UnidentifiedImageError) else text)
        if write:
            write(row, pixels)
        digest = blake2b(encoded, digest_size=16).hexdigest()
        return ImageInfo("", digest, image.width, image.height, mode, rotated, frames, hashed)

    infos = []
    show = log.isEnabledFor(logging.INFO)  # in the first process
    with (
        ThreadPoolExecutor(available_cores() + 1) as pool,  # one more, as PIL works without the GIL, and Python with it
        Progress(console=Console(stderr=True), transient=True, disable=not show) as progress,
    ):
        task = progress.add_task("decoding images", total=len(table))
        for start in range(0, len(table), CHUNK):  # or all encoded images would be in memory
            for info in pool.map(decode, count(start), table[start : start + CHUNK]["image"]):
                infos.append(info)
                progress.advance(task)
    return infos
