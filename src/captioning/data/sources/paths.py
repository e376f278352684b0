"""Images below a folder, found by the names that metadata give them; nothing outside of the folder is read."""

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from PIL import Image

from captioning.data.images import image_formats
from captioning.data.rows import OUTSIDE, RowIssue
from captioning.data.sources.text_files import is_utf8
from captioning.errors import shown

MISSING = "image is missing"
NO_FILE = "image is no file"
DATA_SUFFIXES = (".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".tar", ".tgz", ".gz", ".bz2", ".xz")


class Found(NamedTuple):
    """What a name led to."""

    name: str  # below the folder, the same on every system
    path: str  # on this disk
    error: str = ""  # why there is no path


@dataclass
class _Listing:
    """The content of a folder, by names that are the same on every system."""

    path: str
    files: dict[str, str] = field(default_factory=dict)  # name on this disk
    folders: dict[str, str] = field(default_factory=dict)  # path on this disk
    errors: dict[str, str] = field(default_factory=dict)  # why an entry can't be used
    left_out: set[str] = field(default_factory=set)  # those of them that may hold data
    error: str = ""  # why the folder itself can't be had


class ImageFolder:
    """A folder that images are looked for in, and in its ``subfolders`` too where they aren't at their names.

    A folder is listed when a name first leads into it: links are followed at that time, and those that lead out of the
    whole folder are refused.
    """

    def __init__(self, folder: Path, *, subfolders: Sequence[str] = ()) -> None:
        self.folder = os.path.abspath(folder)  # noqa: PTH100  pathlib keeps "a/../b"
        self.subfolders = ("", *subfolders)
        self._real = os.path.realpath(folder)
        # The Hub's cache keeps the files of a repository beside its snapshots, which hold links to them.
        blobs = [str(above.parent / "blobs") for above in Path(self._real).parents if above.name == "snapshots"]
        self._bounds = (self._real, *blobs)
        self._files: list[str] | None = None
        self._listings: dict[str, _Listing] = {}
        self._insides: dict[str, str | None] = {}

    def find(self, name: str, *, base: str = "") -> Found:
        """The image of a name, which is relative to ``base`` below the folder, absolute, or a web address.

        Of an address only the last part counts: the name of the file that was downloaded.
        """
        if "://" in name and "::" in name:  # zip://a.png::train.zip is what datasets calls an image in there
            return Found(shown(name), "", "image in an archive, which must be unpacked first")
        if "://" in name:
            last = re.split("[?#]", name)[0].partition("://")[2].partition("/")[2].rpartition("/")[2]
            found = self._find(_below(base, unquote(last)))
            return self._find(_below(base, last)) if found.error else found
        plain = portable(name)
        if plain.startswith("/") or re.match("[A-Za-z]:/", plain):
            below = self._name_below(plain)
            return Found(shown(name), "", OUTSIDE) if below is None else self._find(below)
        found = self._find(_below(base, plain))
        others = self.subfolders[1:] if found.error == MISSING else ()
        elsewhere = (self._find(_below(base, f"{subfolder}/{plain}")) for subfolder in others)
        return next((other for other in elsewhere if not other.error), found)

    def images(self) -> list[str]:
        """The names of all files in the folder that look like images by their suffix, hidden ones left out."""
        return [name for name in self.files() if posixpath.splitext(name)[1].lower() in image_suffixes()]

    def files(self) -> list[str]:
        """The names of all files in the folder and its subfolders, sorted, hidden ones left out."""
        if self._files is None:
            found = ((name, file) for name, listing in self._walk() for file in listing.files)
            self._files = sorted(_below(name, file) for name, file in found if not file.startswith("."))
        return self._files

    def left_out(self) -> list[RowIssue]:
        """What in the folder may hold data and can't be used: links that lead out, say."""
        found = ((name, listing.errors[entry], entry) for name, listing in self._walk() for entry in listing.left_out)
        return sorted(RowIssue(error, _below(name, shown(entry))) for name, error, entry in found)

    def forget(self) -> None:
        """Frees the memory of the listings; they are made anew where they are needed."""
        self._files = None
        self._listings.clear()

    def holds(self, path: str) -> bool:
        """Whether a file of this disk is in the folder, once links are followed."""
        target = os.path.realpath(path)
        return any(os.path.commonpath([target, bound]) == bound for bound in self._bounds)

    def _walk(self, name: str = "") -> Iterator[tuple[str, _Listing]]:
        listing = self._listing(name)
        yield name, listing
        for subfolder, path in listing.folders.items():
            # What a link leads to has its own name as well.
            if not subfolder.startswith(".") and not os.path.islink(path):  # noqa: PTH114
                yield from self._walk(_below(name, subfolder))

    def _find(self, name: str) -> Found:
        name = posixpath.normpath(name) if name else "."
        if name == ".." or name.startswith("../"):
            return Found(shown(name), "", OUTSIDE)
        parent, _, last = name.rpartition("/")
        listing = self._listing(parent)
        if last in listing.files:
            return Found(name, f"{listing.path}/{listing.files[last]}")
        if last in listing.folders or last == ".":
            return Found(shown(name), "", NO_FILE)
        return Found(shown(name), "", listing.errors.get(last, listing.error or MISSING))

    def _name_below(self, path: str) -> str | None:
        parent, _, last = path.rpartition("/")
        if parent not in self._insides:
            is_name = "\0" not in parent and is_utf8(parent)
            below = os.path.relpath(os.path.realpath(parent or "/"), self._real) if is_name else ".."
            self._insides[parent] = None if below == ".." or below.startswith("../") else portable(below)
        inside = self._insides[parent]
        return None if inside is None else _below(inside, last)

    def _listing(self, name: str) -> _Listing:
        if name not in self._listings:
            listing, below = self._listings.get("") or self._scan(self.folder), ""
            self._listings[""] = listing
            for part in name.split("/") if name else ():
                below = _below(below, part)
                if below not in self._listings:
                    error = listing.errors.get(part, listing.error or MISSING)
                    there = part in listing.folders
                    self._listings[below] = self._scan(listing.folders[part]) if there else _Listing("", error=error)
                listing = self._listings[below]
        return self._listings[name]

    def _scan(self, path: str) -> _Listing:
        listing = _Listing(path)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    name, is_link = unicodedata.normalize("NFC", entry.name), entry.is_symlink()
                    target = os.path.realpath(entry.path) if is_link else entry.path
                    if not is_utf8(name) or (is_link and not self.holds(target)):
                        listing.errors[name] = OUTSIDE if is_utf8(name) else "file name isn't UTF-8"
                        suffix = posixpath.splitext(name)[1].lower()
                        if suffix in DATA_SUFFIXES or suffix in image_suffixes() or entry.is_dir():
                            listing.left_out.add(name)
                    elif os.path.isfile(target) if is_link else entry.is_file():  # noqa: PTH113  a million times
                        listing.files[name] = entry.name
                    elif os.path.isdir(target) if is_link else entry.is_dir():  # noqa: PTH112
                        listing.folders[name] = entry.path
                    elif os.path.exists(target):  # noqa: PTH110
                        listing.errors[name] = NO_FILE
        except OSError as error:
            return _Listing(path, error=f"folder can't be read: {error.strerror}")
        return listing


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def portable(name: str) -> str:
    r"""One name on every system: Windows writes ``a\b.png``, and macOS takes accented letters apart."""
    return unicodedata.normalize("NFC", name).replace("\\", "/")


@lru_cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of files that can be read as images, such as ``.png``."""
    formats = image_formats()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in formats)
