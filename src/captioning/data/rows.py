"""Rows: what a source holds (raw), and what all sources end in, the table of captioned images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict
from uuid import uuid4

if TYPE_CHECKING:  # datasets takes a second to import, and most mistakes are found before
    from datasets import Dataset, Features

    from captioning.data.images import ImageSource

OUTSIDE = "image outside of the data folder"
NO_IMAGE = "caption without an image"
UNCAPTIONED = "image without a caption"
TWO_IMAGES = "one id with two images"
WAYS_OUT = {OUTSIDE: "data.images=FOLDER names the folder that all images are in"}


class Row(TypedDict):
    """A captioned image."""

    id: str
    image: "ImageSource | None"  # None where a streamed row has no image
    captions: list[str]
    split: str | None
    group: str | None  # rows of one group never are on two sides of a split
    stratum: str | None  # each split gets the same share of every stratum


class RawRow(NamedTuple):
    """A row as its source has it: where it stands (``metadata.csv line 3``), and its cells by their columns."""

    where: str
    cells: dict[str, object]


class RowIssue(NamedTuple):
    """Something left out of the data: what is wrong, and the name of the row or file."""

    kind: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns as the user names them (``data.image_column`` and so on); None: the usual names are tried."""

    image: str | None = None  # a path, an address, or encoded bytes
    caption: str | None = None  # a caption or a list of captions; ``caption_*`` names several columns
    id: str | None = None  # rows with one id are one image with several captions
    group: str | None = None
    split: str | None = None
    stratify: str | None = None


USUAL = Columns()


@dataclass(frozen=True)
class Rows:
    """Captioned images, sorted by id, and what was left out.

    ``table`` holds a :class:`Row` each: ``id`` is unique, ``captions`` has at least one and none of them empty,
    ``split`` is ``train``, ``val``, ``test``, or null where the source gives none, as are ``group`` and ``stratum``.
    """

    table: "Dataset"
    issues: tuple[RowIssue, ...] = ()

    @cached_property
    def ids(self) -> list[str]:
        return self.column("id")

    @property
    def captions(self) -> list[list[str]]:
        return self.column("captions")

    def column(self, name: str) -> list[Any]:
        """One of the columns of all rows."""
        return list(self.table[name][:])  # sliced: read as one column, not row by row

    def select(self, indices: Sequence[int], issues: Iterable[RowIssue] = ()) -> "Rows":
        """Some of the rows; ``issues`` say what is wrong with the others."""
        return Rows(self.table.select(indices), (*self.issues, *issues))


def describe(issues: Sequence[RowIssue], names_shown: int = 3) -> str:
    """The issues counted by kind, each kind with its first names."""
    kinds: dict[str, list[str]] = {}
    for kind, name in issues:
        kinds.setdefault(kind, []).append(name)
    parts = []
    for kind, names in kinds.items():
        more, way_out = ", …" * (len(names) > names_shown), f" ({WAYS_OUT[kind]})" if kind in WAYS_OUT else ""
        parts.append(f"{len(names)} x {kind}: {', '.join(names[:names_shown])}{more}{way_out}")
    return "; ".join(parts)


def row_features() -> "Features":
    """The Arrow types of a :class:`Row`."""
    from datasets import Features, Image, List, Value

    text = Value("string")
    return Features(id=text, image=Image(decode=False), captions=List(text), split=text, group=text, stratum=text)


def in_memory(columns: Mapping[str, Iterable[object]]) -> "Dataset":
    """Some columns of rows as a table in Arrow's memory."""
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo, Features
    from datasets.table import InMemoryTable

    features = Features({name: feature for name, feature in row_features().items() if name in columns})
    schema = features.arrow_schema
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema)
    # Dataset.from_dict would pickle all of it for a fingerprint.
    return Dataset(InMemoryTable(table), info=DatasetInfo(features=features), fingerprint=uuid4().hex)
