"""Which column of a source holds what."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from captioning.data.rows import CAPTION_COLUMNS, Columns, require_columns
from captioning.data.sources.row_builder import Cells
from captioning.errors import UserError, shown

# Tried in this order where data.image_column isn't given.
IMAGE_COLUMNS = ("file_name", "image", "filename", "image_path", "image_file", "img", "path", "url", "image_url")


class ColumnNames(NamedTuple):
    """The names of the columns that are there; the optional ones may be None."""

    image: str
    captions: tuple[str, ...]
    id: str | None
    split: str | None
    group: str | None
    stratum: str | None

    @property
    def of_text(self) -> list[str]:
        """All but the images' column, each once."""
        names = (*self.captions, self.id, self.split, self.group, self.stratum)
        return list(dict.fromkeys(name for name in names if name is not None))

    def cells(self, line: Mapping[str, Any]) -> Cells:
        """The cells of a line; those that it lacks are None."""
        optional = (None if name is None else line.get(name) for name in self[2:])
        return Cells(line.get(self.image), self._captions(line), *optional)

    def _captions(self, line: Mapping[str, Any]) -> Any:
        if len(self.captions) == 1:
            return line.get(self.captions[0])
        values = [line.get(name) for name in self.captions]
        return [item for value in values for item in (value if isinstance(value, (list, tuple)) else [value])]


def find_columns(
    where: str, names: Sequence[str], columns: Columns, *, usual_images: Sequence[str] = IMAGE_COLUMNS
) -> ColumnNames:
    """The columns as the user calls them, or else by their usual names.

    Args:
        where: file or data set, for the error message.
        names: the columns that there are.
        columns: what the user calls them.
        usual_images: names of the images' column, tried in this order.

    Raises:
        UserError: a column isn't there.
    """
    found = (_in_any_case(name, names) for name in usual_images)
    image = columns.image or next((name for name in found if name), usual_images[0])
    _require(where, names, image_column=image)
    optional = {
        "id_column": columns.id,
        "split_column": columns.split,
        "group_column": columns.group,
        "stratify_column": columns.stratify,
    }
    _require(where, names, **{setting: name for setting, name in optional.items() if name})
    captions = _caption_columns([name for name in names if name != image], columns.caption)
    _require(where, names, caption_column=captions[0])
    split = columns.split or ("split" if "split" in names and "split" not in (image, *captions) else None)
    return ColumnNames(image, captions, columns.id, split, columns.group, columns.stratify)


def find_image_columns(where: str, features: Mapping[str, Any], columns: Columns, *, paths: bool = True) -> ColumnNames:
    """The columns of a table of `datasets`: the image's is by default the only one of images.

    Args:
        where: what the table is called.
        features: the type of each of its columns.
        columns: what the user calls them.
        paths: whether an image may be the name of a file.

    Raises:
        UserError: a column isn't there, or the image's holds none.
    """
    import datasets

    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    usual = typed if len(typed) == 1 else ("image", *IMAGE_COLUMNS)
    names = find_columns(where, list(features), columns, usual_images=usual)
    feature = features[names.image]
    if names.image not in typed and not _may_hold_images(feature, paths=paths):
        raise UserError(f"data.image_column={names.image}: {where} has {feature} there, no images")
    return names


def _may_hold_images(feature: Any, *, paths: bool) -> bool:
    if isinstance(feature, dict):
        return "bytes" in feature or ("path" in feature and paths)
    kinds = ("binary", "large_binary", *(("string", "large_string") if paths else ()))
    return getattr(feature, "dtype", None) in kinds


def class_names(features: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """The names of the classes of each column of a table of `datasets` that has numbers for them."""
    import datasets

    return {name: feature.names for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}


def class_name(words: Sequence[str], number: int | None) -> str | int | None:
    """The name of a class; None for -1, as `datasets` has it, and the number itself where it is no class."""
    if number is None or number == -1:
        return None
    return words[number] if 0 <= number < len(words) else number


def _require(where: str, names: Sequence[str], **wanted: str) -> None:
    if any(name not in names for name in wanted.values()):
        require_columns(where, [shown(name) for name in names], **wanted)


def _caption_columns(names: Sequence[str], wanted: str | None) -> tuple[str, ...]:
    """The column of that name, or those of the pattern, or ``caption_0``, ``caption_1`` … for ``caption``."""
    for name in (wanted,) if wanted else CAPTION_COLUMNS:
        there = name if name in names else None if wanted else _in_any_case(name, names)
        if there:
            return (there,)
        pattern = name if "*" in name else None
        if several := [each for each in names if _is_one_of_several(each, name, pattern)]:
            return tuple(sorted(several, key=_by_number))
    return (wanted or CAPTION_COLUMNS[0],)


def _in_any_case(wanted: str, names: Sequence[str]) -> str | None:
    """The name as it stands among ``names``: a spreadsheet begins it with a capital."""
    exact = (name for name in names if name == wanted)
    return next(exact, next((name for name in names if name.lower() == wanted.lower()), None))


def _is_one_of_several(name: str, stem: str, pattern: str | None) -> bool:
    return fnmatchcase(name, pattern) if pattern else bool(re.fullmatch(rf"{re.escape(stem)}_?\d+", name))


def _by_number(name: str) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d{1,18}", name)], name
