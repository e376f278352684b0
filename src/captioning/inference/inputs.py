"""Which images a user means: files, folders, patterns, web addresses, and lists of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from captioning.data.sources.paths import image_suffixes
from captioning.errors import UserError, reason
from captioning.inference.captioner import is_url


class Inputs(NamedTuple):
    """What was found.

    Args:
        images: paths as they were given, or below the folder that was, without ``./``; and URLs. Each once.
        failed: what couldn't be looked into, and why.
    """

    images: list[str]
    failed: dict[str, str]


def find_images(inputs: Iterable[str], *, listed: Iterable[str] = ()) -> Inputs:
    """The images of all inputs, in their order; those of a folder and all folders in it are sorted.

    Args:
        inputs: files, folders, patterns such as ``images/**/*.jpg``, and URLs. Files that were named are taken
            whatever they are; of folders and patterns, hidden files and those whose suffix is no image's aren't.
        listed: lines of a list of files and URLs. One that isn't there fails when it is opened, like a broken image.

    Raises:
        UserError: an input isn't there, or there is no image in all of them.
    """
    found: dict[str, None] = {}
    failed: dict[str, str] = {}
    for name in inputs:
        found.update(dict.fromkeys(_images_of(name, failed)))
    found.update(dict.fromkeys(_plain(name) for name in listed))
    if not found and not failed:
        raise UserError("no images: name files, folders, patterns, URLs, or - for a list on standard input")
    return Inputs(list(found), failed)


def read_list(content: bytes) -> list[str]:
    """The lines of a list, or, where there are any, what NULs separate: ``find … -print0``."""
    text = os.fsdecode(content)
    lines = text.split("\0") if "\0" in text else [line.strip() for line in text.splitlines()]
    return [line for line in lines if line]


def _images_of(name: str, failed: dict[str, str]) -> Iterable[str]:
    if is_url(name) or os.path.isfile(name):  # noqa: PTH113  the name is kept as it is
        return [_plain(name)]
    if os.path.isdir(name):  # noqa: PTH112
        return (path for path in _files(name, failed) if _looks_like_image(path))
    if os.path.exists(name):  # noqa: PTH110
        raise UserError(f"{name}: neither a file nor a folder")
    matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []  # noqa: PTH207
    if not matches:
        raise UserError(f"{name}: no such file or folder")
    return [_plain(path) for path in matches if _looks_like_image(path) and os.path.isfile(path)]  # noqa: PTH113


def _files(folder: str, failed: dict[str, str]) -> Iterator[str]:
    """All files below a folder, links followed, hidden ones left out."""

    def fail(error: OSError) -> None:
        failed[_plain(str(error.filename))] = f"folder can't be read: {reason(error)}"

    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(parent)
        if real in seen:  # links may lead in a circle
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (_plain(os.path.join(parent, name)) for name in sorted(files) if not name.startswith("."))  # noqa: PTH118


def _plain(name: str) -> str:
    return name if is_url(name) else os.path.normpath(name)


def _looks_like_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in image_suffixes()  # noqa: PTH122
