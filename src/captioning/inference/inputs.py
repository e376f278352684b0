"""The images a user names: files, folders, patterns, web addresses, and lists of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from captioning.data.sources.paths import image_suffixes
from captioning.errors import UserError, reason
from captioning.inference.download import is_url


class Inputs(NamedTuple):
    """What was found."""

    images: list[str]  # paths as they were given, or below the folder that was, without ``./``; and URLs. Each once
    failed: dict[str, str]  # folders that couldn't be read, and why


def find_images(inputs: Iterable[str], *, listed: Iterable[str] = ()) -> Inputs:
    """The images of all inputs, in their order; those of a folder and all folders in it are sorted.

    Args:
        inputs: files, folders, patterns such as ``images/**/*.jpg``, and URLs. Files that were named are taken
            whatever they are; of folders and patterns, hidden files and those whose suffix is no image's aren't.
        listed: lines of a list of files and URLs. One that isn't there fails when it is opened, like a broken image.

    Raises UserError where an input isn't there, or has no image.
    """
    found: list[str] = []
    failed: dict[str, str] = {}
    for name in inputs:
        if is_url(name) or os.path.isfile(name):  # noqa: PTH113  the name is kept as it is
            found.append(name)
        elif os.path.isdir(name):  # noqa: PTH112
            found += filter(_has_image_suffix, _files(name, failed))
        elif os.path.exists(name):  # noqa: PTH110
            raise UserError(f"{name}: neither a file nor a folder")
        elif glob.has_magic(name) and (matches := sorted(glob.glob(name, recursive=True))):  # noqa: PTH207
            found += (path for path in matches if _has_image_suffix(path) and os.path.isfile(path))  # noqa: PTH113
        else:
            raise UserError(f"{name}: no such file or folder")
    found += listed
    if not found and not failed:
        raise UserError("no images: name files, folders, patterns, URLs, or - for a list on standard input")
    images = (name if is_url(name) else os.path.normpath(name) for name in found)
    return Inputs(list(dict.fromkeys(images)), failed)


def read_list(content: bytes) -> list[str]:
    """The lines of a list, or, where there are any, what NULs separate: ``find … -print0``."""
    text = os.fsdecode(content)
    lines = text.split("\0") if "\0" in text else [line.strip() for line in text.splitlines()]
    return [line for line in lines if line]


def _files(folder: str, failed: dict[str, str]) -> Iterator[str]:
    """All files below a folder, links followed, hidden ones left out."""

    def fail(error: OSError) -> None:
        failed[os.path.normpath(str(error.filename))] = f"folder can't be read: {reason(error)}"

    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(parent)
        if real in seen:  # links may lead in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(files) if not name.startswith("."))  # noqa: PTH118


def _has_image_suffix(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in image_suffixes()  # noqa: PTH122
