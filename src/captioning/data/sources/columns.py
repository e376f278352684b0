"""Tables of raw rows, and which of their columns holds what."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from captioning.data.rows import Columns, RawRow, RowIssue
from captioning.errors import UserError, nearest, shown

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import BinaryScalar

# Tried in this order where data.image_column or data.caption_column isn't given.
IMAGE_COLUMNS = ("file_name", "image", "filename", "image_path", "image_file", "img", "path", "url", "image_url")
CAPTION_COLUMNS = ("text", "caption", "captions")


class Cells(NamedTuple):
    """The cells of a raw row that count."""

    image: object
    captions: object
    id: object = None
    split: object = None
    group: object = None
    stratum: object = None


class ColumnNames(NamedTuple):
    """The names of the columns that are there; the optional ones may be None."""

    image: str
    captions: tuple[str, ...]
    id: str | None = None
    split: str | None = None
    group: str | None = None
    stratum: str | None = None

    @property
    def texts(self) -> list[str]:
        """All but the images' column, each once."""
        return list(dict.fromkeys(name for name in (*self.captions, *self[2:]) if name is not None))

    def cells(self, row: Mapping[str, object]) -> Cells:
        """The cells of a row; those that it lacks are None."""
        captions = [row.get(name) for name in self.captions]
        if len(captions) > 1:
            captions = [[item for cell in captions for item in (cell if isinstance(cell, list) else [cell])]]
        optional = (None if name is None else row.get(name) for name in self[2:])
        return Cells(row.get(self.image), captions[0], *optional)


class EncodedImage(NamedTuple):
    """The cell of an image that is within its table."""

    number: int  # of its row in Table.images
    content: "BinaryScalar"


class Table(NamedTuple):
    """What a reader makes of a file: its raw rows, and what is wrong with the others."""

    columns: ColumnNames
    rows: Iterable[RawRow | RowIssue]
    split: str | None = None  # of rows that don't give it themselves
    base: str = ""  # folder that image names are relative to
    images: "Dataset | None" = None  # memory-mapped column of encoded images
    numbered: bool = False  # a row without an id is known by where it stands, not by its image


def find_columns(
    where: str, names: Sequence[str], columns: Columns, *, image_columns: Sequence[str] = IMAGE_COLUMNS
) -> ColumnNames:
    """Of the columns ``names`` those that the user names, or else those with usual names, ``caption_0`` … among them.

    A source without a row has no ``names``; ``where`` says in messages which source it is.
    """
    if not names:
        return ColumnNames(image_columns[0], CAPTION_COLUMNS[:1])

    def in_any_case(wanted: str) -> str | None:  # a spreadsheet begins it with a capital
        return wanted if wanted in names else next((name for name in names if name.lower() == wanted.lower()), None)

    image = columns.image or next(filter(None, map(in_any_case, image_columns)), image_columns[0])
    captions = [columns.caption or CAPTION_COLUMNS[0]]
    for wanted in (columns.caption,) if columns.caption else CAPTION_COLUMNS:
        there = wanted if columns.caption else in_any_case(wanted)
        if there and there in names and there != image:
            captions = [there]
            break
        numbered = re.compile(rf"{re.escape(wanted)}_?\d+")
        fits = [name for name in names if fnmatchcase(name, wanted) or numbered.fullmatch(name)]
        if several := [name for name in fits if name != image]:
            captions = sorted(several, key=lambda name: ([int(n) for n in re.findall(r"\d{1,18}", name)], name))
            break
    given = {"image": image, "id": columns.id, "split": columns.split, "group": columns.group}
    for setting, name in (given | {"stratify": columns.stratify, "caption": captions[0]}).items():
        if name and name not in names:
            there = nearest(name, [shown(each) for each in names])
            raise UserError(f"data.{setting}_column={name}: no such column in {where}{there}")
    split = columns.split or ("split" if "split" in names and "split" not in (image, *captions) else None)
    return ColumnNames(image, tuple(captions), columns.id, split, columns.group, columns.stratify)


def find_image_columns(
    where: str, features: Mapping[str, object], columns: Columns, *, paths: bool = True
) -> ColumnNames:
    """The columns of a table of `datasets`: the image's is by default the only one of type ``Image``.

    ``where`` names it in messages, ``features`` are its columns' types; with ``paths`` an image may be a file's name.
    """
    import datasets

    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    usual = typed if len(typed) == 1 else ("image", *IMAGE_COLUMNS)
    names = find_columns(where, list(features), columns, image_columns=usual)
    feature = features.get(names.image)
    kinds = ("binary", "large_binary", *(("string", "large_string") if paths else ()))
    if isinstance(feature, dict):
        holds_images = "bytes" in feature or ("path" in feature and paths)
    else:
        holds_images = names.image in typed or getattr(feature, "dtype", None) in kinds
    if features and not holds_images:
        raise UserError(f"data.image_column={names.image}: {where} has {feature} there, no images")
    return names


def name_classes(row: dict[str, object], features: Mapping[str, object]) -> dict[str, object]:
    """A row with the names of its ``ClassLabel``s; None for -1, and the number where it is no class."""
    for name, feature in features.items():
        number, words = row.get(name), getattr(feature, "names", ())
        if words and isinstance(number, int) and number < len(words):
            row[name] = words[number] if number >= 0 else None if number == -1 else number
    return row
