"""The rows that every source ends in: an id, an image, its captions, and what the source says of its split."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict
from uuid import uuid4

from captioning.data.images import ImageSource
from captioning.errors import UserError, nearest

if TYPE_CHECKING:  # imported where it is used: it takes a second, and most mistakes are found before
    from datasets import Dataset


OUTSIDE = "image outside of the data folder"
CAPTION_COLUMNS = ("text", "caption", "captions")  # tried in this order where data.caption_column isn't given
GIVEN_SPLITS = {
    "train": "train",
    "training": "train",
    "restval": "train",  # Karpathy's: images of COCO's validation set that his splits train on
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


class Row(TypedDict):
    """A captioned image."""

    id: str
    image: ImageSource | None  # None where a Hub data set has a row without an image
    captions: list[str]
    split: str | None
    group: str | None  # rows of one group never are on two sides of a split
    stratum: str | None  # each split gets the same share of every stratum


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the user calls the columns of a source; None: whichever of the usual names is there.

    Attributes:
        image: ``data.image_column``, the image: a path, an address, or encoded bytes.
        caption: ``data.caption_column``, a caption or a list of captions; ``caption_*`` names several columns.
        id: ``data.id_column``; rows with one id are one image with several captions.
        group: ``data.group_column``; rows of one group never are on two sides of a split.
        split: ``data.split_column``, such as ``train``, ``val`` or ``test``; ``split`` where there is one.
        stratify: ``data.stratify_column``; each split gets the same share of each of its values.
    """

    image: str | None = None
    caption: str | None = None
    id: str | None = None
    group: str | None = None
    split: str | None = None
    stratify: str | None = None


USUAL = Columns()


class Problem(NamedTuple):
    """Something left out of the data: what is wrong, and the name of the row or file."""

    kind: str
    name: str


@dataclass(frozen=True)
class Rows:
    """CaptionResult images, sorted by id, and what was left out.

    ``table`` holds a :class:`Row` each: ``id`` is unique, ``captions`` has at least one and none of them empty,
    ``split`` is ``train``, ``val``, ``test``, or null where the source gives none, as are ``group`` and ``stratum``.
    """

    table: "Dataset"
    problems: tuple[Problem, ...] = ()

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row."""
        return self.column("id")

    @property
    def captions(self) -> list[list[str]]:
        """The captions of each row."""
        return self.column("captions")

    def column(self, name: str) -> list[Any]:
        """One of the columns of all rows."""
        return list(self.table[name][:])  # sliced: read as one column, not row by row

    def select(self, indices: Sequence[int], problems: Iterable[Problem] = ()) -> "Rows":
        """Some of the rows, with what is known of the others."""
        return Rows(self.table.select(indices), (*self.problems, *problems))


def require_columns(where: str, columns: Sequence[str], **wanted: str) -> None:
    """Refuse a column name that isn't there; the keywords are the settings that named it."""
    for setting, name in wanted.items():
        if name not in columns:
            raise UserError(f"data.{setting}={name}: no such column in {where}{nearest(name, list(columns))}")


WAYS_OUT = {OUTSIDE: "data.images=FOLDER names the folder that all images are in"}


def describe(problems: Sequence[Problem], names_shown: int = 3) -> str:
    """The problems counted by kind, each kind with the first few names."""
    kinds: dict[str, list[str]] = {}
    for kind, name in problems:
        kinds.setdefault(kind, []).append(name)
    return "; ".join(
        f"{len(names)} x {kind}: {', '.join(names[:names_shown])}{', …' if len(names) > names_shown else ''}"
        f"{f' ({WAYS_OUT[kind]})' if kind in WAYS_OUT else ''}"
        for kind, names in kinds.items()
    )


def rows_of_arrays(arrays: Mapping[str, Any], problems: Iterable[Problem]) -> Rows:
    """Rows from columns of equal length, in Arrow's memory, sorted by id; ids are unique."""
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo
    from datasets.table import InMemoryTable

    # Arrow sorts text by its UTF-8, which is Python's order too: however the files were listed, the rows are the same.
    table = pa.table(dict(arrays), row_features().arrow_schema).sort_by("id")
    # Dataset.from_dict would pickle all of it for a fingerprint.
    info = DatasetInfo(features=row_features())
    return Rows(Dataset(InMemoryTable(table), info=info, fingerprint=uuid4().hex), tuple(problems))


def row_features() -> Any:
    """The Arrow types of a :class:`Row`."""
    from datasets import Features, List, Value

    image = {"bytes": Value("binary"), "path": Value("string")}
    text = Value("string")
    return Features(id=text, image=image, captions=List(text), split=text, group=text, stratum=text)
