"""Tar shards for tests."""

import io
import tarfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from PIL import Image


@lru_cache
def jpeg(color: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(file, "JPEG")
    return file.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes | str]], mode: str = "w") -> Path:
    """A tar of members by their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            encoded = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(encoded)
            tar.addfile(member, io.BytesIO(encoded))
    return path


def write_shards(folder: Path, *sizes: int, image: bytes | None = None) -> Path:
    """Shards of so many rows each, ``0/000``, ``0/001`` and so on, as webdataset would write them."""
    for shard, size in enumerate(sizes):
        write_tar(
            folder / f"{shard}.tar",
            (
                (f"{row:03d}.{suffix}", content)
                for row in range(size)
                for suffix, content in (("jpg", image or jpeg()), ("txt", f"row {row} of shard {shard}"))
            ),
        )
    return folder
