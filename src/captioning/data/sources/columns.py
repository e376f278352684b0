"""Tables of raw rows, and which of their columns holds what."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from captioning.data.rows import Columns, RawRow, RowIssue
from captioning.errors import UserError, nearest, shown

if TYPE_CHECKING:
    from datasets import Dataset

# Tried in this order where data.image_column or data.caption_column isn't given.
IMAGE_COLUMNS = ("file_name", "image", "filename", "image_path", "image_file", "img", "path", "url", "image_url")
CAPTION_COLUMNS = ("text", "caption", "captions")


class Cells(NamedTuple):
    """The cells of a raw row that count."""

    image: Any
    captions: Any
    id: Any = None
    split: Any = None
    group: Any = None
    stratum: Any = None


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

    def cells(self, row: Mapping[str, Any]) -> Cells:
        """The cells of a row; those that it lacks are None."""
        captions = [row.get(name) for name in self.captions]
        if len(captions) > 1:
            captions = [[item for cell in captions for item in (cell if isinstance(cell, list) else [cell])]]
        optional = (None if name is None else row.get(name) for name in self[2:])
        return Cells(row.get(self.image), captions[0], *optional)


class EncodedImage(NamedTuple):
    """The cell of an image that is within its table."""

    number: int  # of its row in Table.images
    content: Any  # an Arrow scalar of bytes


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
    """The columns as the user names them, or else by their usual names.

    Args:
        where: file or data set, for the error message.
        names: the columns that there are; none in a source without a row.
        columns: as the user names them.
        image_columns: the usual names of the images' column, tried in this order.

    Raises:
        UserError: a column isn't there.
    """

    def require(**settings: str | None) -> None:
        for setting, name in settings.items():
            if name and name not in names:
                there = nearest(name, [shown(each) for each in names])
                raise UserError(f"data.{setting}={name}: no such column in {where}{there}")

    if not names:
        return ColumnNames(image_columns[0], CAPTION_COLUMNS[:1])
    image = columns.image or next(filter(None, (_in_any_case(name, names) for name in image_columns)), image_columns[0])
    require(image_column=image, id_column=columns.id, split_column=columns.split)
    require(group_column=columns.group, stratify_column=columns.stratify)
    captions = _caption_columns([name for name in names if name != image], columns.caption)
    require(caption_column=captions[0])
    split = columns.split or ("split" if "split" in names and "split" not in (image, *captions) else None)
    return ColumnNames(image, captions, columns.id, split, columns.group, columns.stratify)


def find_image_columns(where: str, features: Mapping[str, Any], columns: Columns, *, paths: bool = True) -> ColumnNames:
    """The columns of a table of `datasets`: the image's is by default the only one of type ``Image``.

    Args:
        where: file or data set, for the error message.
        features: the type of each column.
        columns: as the user names them.
        paths: whether an image may be the name of a file.

    Raises:
        UserError: a column isn't there, or the image's holds none.
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


def name_classes(row: dict[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the names of its ``ClassLabel``s; None for -1, and the number where it is no class."""
    for name, feature in features.items():
        number, words = row.get(name), getattr(feature, "names", ())
        if words and number is not None and number < len(words):
            row[name] = words[number] if number >= 0 else None if number == -1 else number
    return row


def _caption_columns(names: Sequence[str], wanted: str | None) -> tuple[str, ...]:
    """The column of that name, or those of the pattern, or ``caption_0``, ``caption_1`` … for ``caption``."""
    for name in (wanted,) if wanted else CAPTION_COLUMNS:
        there = (name if name in names else None) if wanted else _in_any_case(name, names)
        if there:
            return (there,)
        numbered = re.compile(rf"{re.escape(name)}_?\d+")
        if several := [n for n in names if (fnmatchcase(n, name) if "*" in name else numbered.fullmatch(n))]:
            return tuple(sorted(several, key=lambda n: ([int(digits) for digits in re.findall(r"\d{1,18}", n)], n)))
    return (wanted or CAPTION_COLUMNS[0],)


def _in_any_case(wanted: str, names: Sequence[str]) -> str | None:
    """The name as it stands among ``names``: a spreadsheet begins it with a capital."""
    return wanted if wanted in names else next((name for name in names if name.lower() == wanted.lower()), None)
