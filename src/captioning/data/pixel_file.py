"""The pixels of all images in one memory-mapped file."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioning.files import replacing, write_at


class PixelFile:
    """uint8 images of one shape, read from the disk where they are asked for.

    Every process maps the file for itself, and all of them share the pages that are in memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pixels: np.ndarray | None = None

    def open(self) -> "PixelFile":
        """Map the file now: whoever has it mapped goes on reading when it is deleted."""
        self._mapped()
        return self

    def read(self, rows: Iterable[int]) -> list[Tensor]:
        """Some images, uint8 (3, height, width); what stands in the file itself, to be copied and not changed."""
        mapped = self._mapped()
        return [torch.from_numpy(mapped[row]) for row in rows]

    def _mapped(self) -> np.ndarray:
        if self._pixels is None:
            self._pixels = np.load(self.path, mmap_mode="c")  # what is written there all the same stays in this process
        return self._pixels

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_pixels": None}  # a mapping would be pickled with all that it maps


class PixelWriter:
    """Writes images into their places, in any order and from any thread."""

    def __init__(self, descriptor: int, header: int, shape: tuple[int, ...]) -> None:
        self.descriptor = descriptor
        self.header = header
        self.shape = shape

    def write(self, row: int, pixels: np.ndarray) -> None:
        """Write one image, uint8 (3, height, width).

        Raises:
            OSError: the disk is full.
            ValueError: the image has another shape.
        """
        if pixels.shape != self.shape:
            raise ValueError(f"an image of shape {pixels.shape} among those of shape {self.shape}")
        write_at(self.descriptor, pixels.tobytes(), self.header + row * pixels.nbytes)


@contextmanager
def writing_pixels(path: Path, count: int, shape: tuple[int, ...]) -> Iterator[PixelWriter]:
    """A file for ``count`` images that is there once the block has ended, or isn't there at all."""
    with replacing(path) as part, part.open("wb") as file:
        layout = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
        np.lib.format.write_array_header_2_0(file, layout)
        header = file.tell()
        file.truncate(header + count * int(np.prod(shape)))
        file.flush()
        yield PixelWriter(file.fileno(), header, shape)
