"""The rows that every source ends in: an id, a picture, its captions, and where one is given, its split."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from captioning.data.pictures import PictureSource
from captioning.errors import UserError, nearest

if TYPE_CHECKING:  # imported where it is used: it takes a second, and most mistakes are found before
    from datasets import Dataset


CAPTION_COLUMNS = ("text", "caption", "captions")  # tried in this order where data.caption_column isn't given
GIVEN_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


class Row(TypedDict):
    """A captioned picture."""

    id: str
    image: PictureSource | None  # None where a Hub data set has a row without a picture
    captions: list[str]
    split: str | None


class Problem(NamedTuple):
    """Something left out of the data: what is wrong, and the name of the row or file."""

    kind: str
    name: str


@dataclass(frozen=True)
class Rows:
    """Captioned pictures, sorted by id, and what was left out.

    ``table`` holds a :class:`Row` each: ``id`` is unique, ``captions`` has at least one and none of them empty,
    ``split`` is ``train``, ``val``, ``test``, or null where the source gives none.
    """

    table: "Dataset"
    problems: tuple[Problem, ...] = ()

    @property
    def ids(self) -> list[str]:
        """The id of each row."""
        return list(self.table["id"])

    @property
    def captions(self) -> list[list[str]]:
        """The captions of each row."""
        return list(self.table["captions"])

    def select(self, indices: Sequence[int], problems: Iterable[Problem] = ()) -> "Rows":
        """Some of the rows, with what is known of the others."""
        return Rows(self.table.select(indices), (*self.problems, *problems))


def require_columns(where: str, columns: Sequence[str], **wanted: str) -> None:
    """Refuse a column name that isn't there; the keywords are the settings that named it."""
    for setting, name in wanted.items():
        if name not in columns:
            raise UserError(f"data.{setting}={name}: no such column in {where}{nearest(name, list(columns))}")


def clean_captions(value: Any, where: str) -> list[str]:
    """The captions in a cell, which may hold one, a list, or nothing: stripped, without the empty ones."""
    values = value if isinstance(value, (list, tuple)) else [value]
    for item in values:
        if item is not None and not isinstance(item, str):
            raise UserError(f"data.caption_column: {where} holds {item!r:.60}; a caption is text, or a list of texts")
    return [text for text in (" ".join(item.split()) for item in values if item is not None) if text]


def describe(problems: Sequence[Problem], names_shown: int = 3) -> str:
    """The problems counted by kind, each kind with the first few names."""
    kinds: dict[str, list[str]] = {}
    for kind, name in problems:
        kinds.setdefault(kind, []).append(name)
    return "; ".join(
        f"{len(names)} x {kind}: {', '.join(names[:names_shown])}{', …' if len(names) > names_shown else ''}"
        for kind, names in kinds.items()
    )


def split_name(value: Any, where: str) -> str | None:
    """``train``, ``val`` or ``test`` for any of the usual names of a split; None for none."""
    if value is None or value == "":
        return None
    if str(value).lower() not in GIVEN_SPLITS:
        raise UserError(f"{where}: split {value!r} is none of {', '.join(GIVEN_SPLITS)}")
    return GIVEN_SPLITS[str(value).lower()]


def make_rows(
    *,
    ids: list[str],
    images: list[PictureSource],
    captions: list[list[str]],
    splits: list[str | None],
    problems: Iterable[Problem],
) -> Rows:
    """Rows from columns of equal length, sorted by id."""
    from datasets import Dataset

    order = sorted(range(len(ids)), key=ids.__getitem__)  # however the files were listed, the rows are the same
    columns: dict[str, list[Any]] = {"id": ids, "image": images, "captions": captions, "split": splits}
    sorted_columns = {name: [values[i] for i in order] for name, values in columns.items()}
    return Rows(Dataset.from_dict(sorted_columns, features=row_features()), tuple(problems))


def row_features() -> Any:
    """The Arrow types of a :class:`Row`."""
    from datasets import Features, List, Value

    picture = {"bytes": Value("binary"), "path": Value("string")}
    return Features(id=Value("string"), image=picture, captions=List(Value("string")), split=Value("string"))
