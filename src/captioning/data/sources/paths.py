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
from urllib.parse import unquote, urlsplit

from PIL import Image

from captioning.data.images import image_formats
from captioning.data.rows import OUTSIDE
from captioning.errors import shown

MISSING = "image is missing"
NO_FILE = "image is no file"
NO_ADDRESS = "not a web address"
NAME_NOT_UTF8 = "file name isn't UTF-8"
IN_ARCHIVE = "image in an archive, which must be unpacked first"
DATA_SUFFIXES = (".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".tar", ".tgz", ".gz", ".bz2", ".xz")


class Found(NamedTuple):
    """What a name led to."""

    name: str  # below the folder, the same on every system
    path: str  # on this disk
    trouble: str = ""  # why there is no path; empty: none


@dataclass
class _Listing:
    """The content of a folder, by names that are the same on every system."""

    path: str
    files: dict[str, str] = field(default_factory=dict)  # name on this disk
    folders: dict[str, str] = field(default_factory=dict)  # path on this disk
    links: set[str] = field(default_factory=set)  # those of the folders that are links
    troubles: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # the troubles of what may hold data, whoever names it


class ImageFolder:
    """A folder that images are looked for in.

    A folder is listed when a name first leads into it: links are followed at that time, and those that lead out of the
    whole folder are refused.

    Args:
        folder: the folder; itself it may be a link.
        subfolders: where an image is looked for too, when it isn't at its name.
    """

    def __init__(self, folder: Path, *, subfolders: Sequence[str] = ()) -> None:
        self.folder = os.path.abspath(folder)  # noqa: PTH100  pathlib keeps "a/../b"
        self.subfolders = ("", *subfolders)
        self._real = os.path.realpath(folder)
        # The Hub's cache keeps the files of a repository beside its snapshots, which hold links to them.
        blobs = [str(above.parent / "blobs") for above in Path(self._real).parents if above.name == "snapshots"]
        self._bounds = (self._real, *blobs)
        self._files: list[str] | None = None
        self._listings: dict[str, _Listing | str] = {}
        self._insides: dict[str, str | None] = {}

    def find(self, name: str, *, base: str = "") -> Found:
        """The image of a name, which is relative to ``base`` below the folder, absolute, or a web address.

        Of an address only the last part counts: the name of the file that was downloaded.
        """
        if "://" in name and "::" in name:  # zip://a.png::train.zip is what datasets calls an image in there
            return Found(shown(name), "", IN_ARCHIVE)
        if "://" in name:
            try:
                last = posixpath.basename(urlsplit(name).path)
            except ValueError:
                return Found(shown(name), "", NO_ADDRESS)
            found = self._find(_below(base, unquote(last)))
            return found if not found.trouble else self._find(_below(base, last))
        plain = portable(name)
        if plain.startswith("/") or re.match("[A-Za-z]:/", plain):
            below = self._name_below(plain)
            return Found(shown(name), "", OUTSIDE) if below is None else self._find(below)
        found = self._find(_below(base, plain))
        for subfolder in self.subfolders[1:] if found.trouble == MISSING else ():
            other = self._find(_below(base, f"{subfolder}/{plain}"))
            if not other.trouble:
                return other
        return found

    def images(self) -> list[str]:
        """The names of all files in the folder that look like images by their suffix, hidden ones left out."""
        suffixes = image_suffixes()
        return [name for name in self.files() if posixpath.splitext(name)[1].lower() in suffixes]

    def files(self) -> list[str]:
        """The names of all files in the folder and its subfolders, sorted, hidden ones left out."""
        if self._files is None:
            self._files = sorted(
                _below(name, file)
                for name, listing in self._walk()
                for file in listing.files
                if not file.startswith(".")
            )
        return self._files

    def left_out(self) -> list[tuple[str, str]]:
        """What in the folder can't be used, whoever names it: what is wrong, and the name; links that lead out, say."""
        return sorted(
            (trouble, _below(name, shown(entry)))
            for name, listing in self._walk()
            for entry, trouble in listing.left_out.items()
        )

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
        if isinstance(listing, str):
            return
        yield name, listing
        for subfolder in listing.folders.keys() - listing.links:  # what a link leads to has its own name as well
            if not subfolder.startswith("."):
                yield from self._walk(_below(name, subfolder))

    def _find(self, name: str) -> Found:
        name = posixpath.normpath(name) if name else "."
        if name == ".." or name.startswith("../"):
            return Found(shown(name), "", OUTSIDE)
        parent, _, last = name.rpartition("/")
        listing = self._listing(parent)
        if isinstance(listing, str):
            return Found(shown(name), "", listing)
        if last in listing.files:
            return Found(name, f"{listing.path}/{listing.files[last]}")
        if last in listing.folders or last == ".":
            return Found(shown(name), "", NO_FILE)
        return Found(shown(name), "", listing.troubles.get(last, MISSING))

    def _name_below(self, path: str) -> str | None:
        """The name below the folder of an absolute path, or None where it is outside."""
        parent, _, last = path.rpartition("/")
        if parent not in self._insides:
            try:
                below = os.path.relpath(os.path.realpath(parent or "/"), self._real)
            except ValueError:  # a NUL in it, or on Windows another drive
                below = ".."
            self._insides[parent] = None if below == ".." or below.startswith(f"..{os.sep}") else portable(below)
        inside = self._insides[parent]
        return None if inside is None else _below(inside, last)

    def _listing(self, name: str) -> _Listing | str:
        """The content of a folder, or why it can't be had."""
        if name not in self._listings:
            self._listings[name] = self._list(name)
        return self._listings[name]

    def _list(self, name: str) -> _Listing | str:
        if not name:
            return self._scan(self.folder)
        parent, _, last = name.rpartition("/")
        above = self._listing(parent)
        if isinstance(above, str):
            return above
        return self._scan(above.folders[last]) if last in above.folders else above.troubles.get(last, MISSING)

    def _scan(self, path: str) -> _Listing | str:
        listing = _Listing(path)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    self._place(entry, listing)
        except OSError as error:
            return f"folder can't be read: {error.strerror}"
        return listing

    def _place(self, entry: os.DirEntry[str], listing: _Listing) -> None:
        name, target = unicodedata.normalize("NFC", entry.name), entry.path
        if not is_utf8(name):
            _leave_out(entry, name, NAME_NOT_UTF8, listing)
            return
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if not self.holds(target):
                _leave_out(entry, name, OUTSIDE, listing)
                return
        if os.path.isfile(target) if entry.is_symlink() else entry.is_file():  # noqa: PTH113  a million times
            listing.files[name] = entry.name
        elif os.path.isdir(target) if entry.is_symlink() else entry.is_dir():  # noqa: PTH112
            listing.folders[name] = entry.path
            if entry.is_symlink():
                listing.links.add(name)
        elif os.path.exists(target):  # noqa: PTH110
            listing.troubles[name] = NO_FILE


def _leave_out(entry: os.DirEntry[str], name: str, trouble: str, listing: _Listing) -> None:
    listing.troubles[name] = trouble
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in DATA_SUFFIXES or suffix in image_suffixes() or entry.is_dir():
        listing.left_out[name] = trouble


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def portable(name: str) -> str:
    r"""One name on every system: Windows writes ``a\b.png``, and macOS takes accented letters apart."""
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def is_utf8(text: str) -> bool:
    """Whether text that keeps bytes as they are where they aren't UTF-8 (``errors="surrogateescape"``) has none."""
    return text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text)


@lru_cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of files that can be read as images, such as ``.png``."""
    formats = image_formats()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in formats)
