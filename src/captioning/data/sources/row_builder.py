"""Rows in the making: cells become captions, splits and labels, lines about one image become one row."""

from collections.abc import Callable, Iterator
from operator import eq
from typing import Any, NamedTuple

from captioning.data.images import ImageSource
from captioning.data.rows import Problem, Row, Rows, describe, row_features, rows_of_arrays
from captioning.data.shards import Report
from captioning.data.sources.paths import ImageFolder
from captioning.data.sources.split_names import split_of
from captioning.errors import UserError, shown

NO_CAPTION = "empty caption"
NOT_TEXT = "caption isn't text"
NUL = "caption with a NUL character"
NOT_UNICODE = "caption isn't valid Unicode"
NO_IMAGE = "caption without an image"
UNCAPTIONED = "image without a caption"
TWO_ADDRESSES = "two addresses with one file name"


class Cells(NamedTuple):
    """What a line says of an image, as it stands there."""

    image: Any
    captions: Any
    id: Any = None
    split: Any = None
    group: Any = None
    stratum: Any = None


class RawRow(NamedTuple):
    """A row whose image is whatever the source knows it by."""

    id: str
    image: Any
    captions: list[str]
    split: str | None
    group: str | None
    stratum: str | None


class Labels(NamedTuple):
    """What an image belongs to."""

    split: str | None
    group: str | None
    stratum: str | None


TWO_IMAGES = "one id with two images"
CONTRADICTIONS = ("image in two splits", "image in two groups", "image in two strata")  # as Labels has them


class RowBuilder:
    """Collects what lines say of images.

    Lines with one id are put together. Where they contradict each other the row is left out, whichever line came
    first; so the rows don't depend on the order of the lines.

    Args:
        same_image: whether two images, as they are given to :meth:`add`, are the same one.
    """

    def __init__(self, same_image: Callable[[Any, Any], bool] = eq) -> None:
        self.problems: list[Problem] = []
        self.lines = 0  # seen, good and bad
        self._same_image = same_image
        self._rows: dict[str, int] = {}
        self._images: list[Any] = []
        self._labels: list[Labels] = []
        self._shared_labels: dict[Labels, Labels] = {}  # most rows have the same
        self._captions: list[list[str]] = []
        self._several: set[int] = set()  # rows of more than one line
        self._contradicted: set[str] = set()
        self._addresses: dict[str, str] = {}  # by the file that was found for it
        self._ambiguous: set[Any] = set()  # files found for more than one address

    def fail(self, kind: str, name: str) -> None:
        """A line or file can't be read."""
        self.problems.append(Problem(kind, shown(name)))

    def leave_out(self, kind: str, name: str) -> None:
        """A captioned image can't be used."""
        self.lines += 1
        self.fail(kind, name)

    def add_file(
        self, cells: Cells, folder: ImageFolder, where: str, *, base: str = "", id_expected: bool = False
    ) -> str:
        """A line that names its image; returns the image's name below the folder."""
        if not isinstance(cells.image, str) or not cells.image:
            self.leave_out(NO_IMAGE, f"(no name) ({where})")
            return ""
        found = folder.find(cells.image, base=base)
        if found.trouble:
            self.leave_out(found.trouble, f"{cells.image} ({where})")
            return found.name
        if "://" in cells.image and self._addresses.setdefault(found.path, cells.image) != cells.image:
            self._ambiguous.add(found.path)
            self.fail(TWO_ADDRESSES, f"{found.name} ({where})")
        self.add(found.name, found.path, cells, where, id_expected=id_expected)
        return found.name

    def add(self, default_id: str, image: Any, cells: Cells, where: str, *, id_expected: bool) -> None:
        """A line whose image is known.

        Args:
            default_id: the id where the cells give none.
            image: whatever the caller knows the image by.
            cells: the rest of the line.
            where: file and line; empty where the id says it.
            id_expected: whether a line without an id is a problem.
        """
        self.lines += 1
        (row_id, is_id), (group, is_group), (stratum, is_stratum) = map(_label, (cells.id, cells.group, cells.stratum))
        split, is_split = _split(cells.split)
        captions, faults = _captions(cells.captions)
        wrong = {
            "id isn't text or a number": not is_id,
            "id is missing": id_expected and is_id and row_id is None,
            "group isn't text or a number": not is_group,
            "stratum isn't text or a number": not is_stratum,
            f"unknown split {cells.split!r:.60}": not is_split,
        }
        faults += [fault for fault, holds in wrong.items() if holds]
        name = row_id or default_id
        for fault in faults:
            self.fail(fault, f"{name} ({where})" if where else name)
        if captions and not any(wrong.values()):
            self._put(name, image, Labels(split, group, stratum), captions, where)

    def _put(self, row_id: str, image: Any, labels: Labels, captions: list[str], where: str) -> None:
        row = self._rows.setdefault(row_id, len(self._images))
        if row == len(self._images):
            self._images.append(image)
            self._labels.append(self._shared_labels.setdefault(labels, labels))
            self._captions.append(captions)
            return
        self._several.add(row)
        self._captions[row] += captions
        known = self._labels[row]
        if not self._same_image(self._images[row], image):
            self._contradict(TWO_IMAGES, row_id, where)
        for kind, one, other in zip(CONTRADICTIONS, known, labels, strict=True):
            if one is not None and other is not None and one != other:
                self._contradict(kind, row_id, where)
        self._labels[row] = Labels(*(one or other for one, other in zip(known, labels, strict=True)))

    def _contradict(self, kind: str, row_id: str, where: str) -> None:
        if row_id not in self._contradicted:
            self._contradicted.add(row_id)
            self.fail(kind, f"{row_id} ({where})" if where else row_id)

    def usable(self) -> Iterator[RawRow]:
        """The rows that nothing is wrong with."""
        for row_id, row in self._rows.items():
            image = self._images[row]
            if row_id not in self._contradicted and image not in self._ambiguous:
                captions = sorted(self._captions[row]) if row in self._several else self._captions[row]
                yield RawRow(row_id, image, captions, *self._labels[row])

    def rows_of_files(self, path: str, folder: ImageFolder) -> Rows:
        """The rows, where images are known by their paths; the draft is empty then.

        Raises:
            UserError: there are none.
        """
        import pyarrow as pa

        columns: dict[str, list[Any]] = {name: [] for name in RawRow._fields}
        for row in self.usable():
            for name, value in zip(columns, row, strict=True):
                columns[name].append(value)
        if not columns["id"]:
            raise self.nothing_left(path, folder)
        for collected in (self._rows, self._images, self._captions, self._labels):
            collected.clear()  # or a million rows would be in memory twice
        folder.forget()
        types = row_features().arrow_schema
        paths = pa.array(columns.pop("image"), pa.string())
        arrays = {name: pa.array(columns.pop(name), types.field(name).type) for name in list(columns)}
        image = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), paths], ["bytes", "path"])
        return rows_of_arrays({name: arrays.get(name, image) for name in types.names}, self.problems)

    def nothing_left(self, path: str, folder: ImageFolder) -> UserError:
        """The error of data without a usable row."""
        found = f"none of its {self.lines} images can be used" if self.lines else "no captions in it"
        looked = " or ".join(f"{subfolder}/NAME" if subfolder else "NAME" for subfolder in folder.subfolders)
        return UserError(
            f"data.path={path}: {found}{': ' + describe(self.problems) if self.problems else ''}. Images were looked "
            f"for as {looked} in {folder.folder}; data.images=FOLDER names another folder"
        )


def rows_of(name: str, encoded: bytes | None, cells: Cells, report: Report, *, id_expected: bool) -> Iterator[Row]:
    """The row that a shard's cells make; none where something is wrong with it, which is reported.

    Args:
        name: the row's id where the cells give none.
        encoded: its image.
        cells: all else.
        report: told what is left out.
        id_expected: whether a row without an id of its own is a problem.
    """
    if encoded is None or cells.captions is None:
        report(Problem(NO_IMAGE if encoded is None else UNCAPTIONED, name))
        return
    draft = RowBuilder()
    draft.add(name, None, cells, "", id_expected=id_expected)
    for problem in draft.problems:
        report(problem)
    for row in draft.usable():
        yield Row(
            id=row.id,
            image=ImageSource(bytes=encoded, path=None),
            captions=row.captions,
            split=row.split,
            group=row.group,
            stratum=row.stratum,
        )


def _captions(value: Any) -> tuple[list[str], list[str]]:
    """The usable captions in a cell, which may hold one, a list, or nothing; and what is wrong with the others."""
    texts: list[str] = []
    faults: list[str] = []
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if item is None:
            continue
        if not isinstance(item, str):
            faults.append(NOT_TEXT)
        elif "\0" in item:
            faults.append(NUL)
        elif not _is_unicode(item):
            faults.append(NOT_UNICODE)
        elif text := " ".join(item.split()):
            texts.append(text)
    return texts, faults or ([] if texts else [NO_CAPTION])


def _split(value: Any) -> tuple[str | None, bool]:
    """The split in a cell, if there is one, and whether what is there is fit."""
    if value is None or value == "" or value != value:  # NaN is what pandas writes for nothing
        return None, True
    split = split_of(value)
    return split, split is not None


def _label(value: Any) -> tuple[str | None, bool]:
    """An id, group or stratum as text, if there is one, and whether what is there is fit."""
    if value is None or value == "" or value != value:
        return None, True
    if isinstance(value, float) and value.is_integer():  # as pandas writes whole numbers, where some are missing
        return str(int(value)), True
    if isinstance(value, (int, float)):
        return str(value), True
    is_text = isinstance(value, str) and "\0" not in value and _is_unicode(value)
    return (value, True) if is_text else (None, False)


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can hold half of an emoji
        return False
    return True
