"""Tables of `datasets` with images in them (the Hub, Parquet, a saved data set), as rows."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from captioning.data.rows import Columns, Problem, Rows, row_features
from captioning.data.sources.columns import class_name, class_names, find_image_columns
from captioning.data.sources.paths import MISSING, ImageFolder
from captioning.data.sources.row_builder import RawRow, RowBuilder
from captioning.data.sources.text_files import NOT_UTF8, rows_of_batch

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 8192  # rows that are Python objects at a time


class Part(NamedTuple):
    """A table, and what it is called."""

    table: "Dataset"
    split: str | None  # of the rows that don't say it themselves, as the source calls it
    label: str  # what ids and problems call it


def read_parts(
    parts: Sequence[Part],
    path: str,
    columns: Columns,
    folder: ImageFolder,
    *,
    ids_by_content: bool = False,
    problems: Sequence[Problem] = (),
) -> Rows:
    """Rows of tables whose images are within, or are files of a folder.

    Images aren't decoded, and stay on the disk as long as the tables are memory-mapped.

    Args:
        parts: the tables, usually one for each split.
        path: of all of them, for messages.
        columns: what the user calls their columns.
        folder: where images are looked for that aren't within.
        ids_by_content: whether a row without an id is known by its image (its path, or else a digest) and not by its
            number; rows with the same image are then put together.
        problems: what is known to be left out already.

    Raises:
        UserError: no such columns, or nothing usable.
    """
    reader = _PartsReader(columns, folder, ids_by_content=ids_by_content)
    reader.draft.problems += problems
    for part in parts:
        reader.read(part)
    return reader.rows(path)


class _PartsReader:
    """Puts one part after the other into a draft, in which an image is known by the number of its row in all parts."""

    def __init__(self, columns: Columns, folder: ImageFolder, *, ids_by_content: bool) -> None:
        self.draft = RowBuilder(self._same_image)
        self._columns = columns
        self._folder = folder
        self._ids_by_content = ids_by_content
        self._images: list[Dataset] = []  # of each part: the column image alone
        self._paths: dict[int, str] = {}  # of images that aren't within, by row
        self._count = 0  # of rows
        self._digest_of = lru_cache(maxsize=BATCH)(self._digest_of_row)

    def read(self, part: Part) -> None:
        names = find_image_columns(part.label, part.table.features, self._columns)
        images = _image_column(part, names.image)
        self._images.append(images)
        start, self._count = self._count, self._count + len(images)
        lines = _text_rows(part.table.select_columns(names.of_text))
        for number, (line, (encoded, path)) in enumerate(zip(lines, _image_cells(images), strict=True)):
            where = f"{part.label} row {number}"
            row_id = f"{part.label}-{number:07d}"
            if encoded is None:
                found = self._folder.find(path or "")
                if found.trouble:
                    self.draft.leave_out(*(found.trouble, f"{path} ({where})") if path else (MISSING, row_id))
                    continue
                self._paths[start + number] = found.path
            if self._ids_by_content:
                row_id = found.name if encoded is None else _digest(encoded)
            elif names.id is None:
                where = ""  # the id says it
            if line is None:
                self.draft.leave_out(NOT_UTF8, f"{row_id} ({where})" if where else row_id)
                continue
            cells = names.cells(line)
            if part.split is not None and cells.split in (None, ""):
                cells = cells._replace(split=part.split)
            self.draft.add(row_id, start + number, cells, where, id_expected=names.id is not None)

    def rows(self, path: str) -> Rows:
        """All that was read.

        Raises:
            UserError: nothing usable.
        """
        import datasets

        usable = sorted(self.draft.usable())
        if not usable:
            raise self.draft.nothing_left(path, self._folder)
        images = datasets.concatenate_datasets([self._with_paths(part) for part in range(len(self._images))])
        # Whole columns side by side, and only then a choice of rows: so the images are never copied.
        table = datasets.concatenate_datasets([images, self._texts(usable)], axis=1)
        return Rows(table.select([row.image for row in usable]), tuple(self.draft.problems))

    def _texts(self, usable: Sequence[RawRow]) -> "Dataset":
        """All columns but the images', with empty cells in the rows that aren't usable."""
        import pyarrow as pa
        from datasets import Dataset, Features

        features = Features({name: feature for name, feature in row_features().items() if name != "image"})
        columns: dict[str, list[Any]] = {name: [None] * self._count for name in features}
        for row in usable:
            for name, cells in columns.items():
                cells[row.image] = getattr(row, name)
        types = features.arrow_schema
        arrays = {name: pa.array(cells, types.field(name).type) for name, cells in columns.items()}
        return Dataset.from_dict(arrays, features=features)

    def _with_paths(self, part: int) -> "Dataset":
        """The images of a part, with the paths that were found for those that aren't within."""
        import pyarrow as pa
        import pyarrow.compute as pc
        from datasets import Dataset

        images = self._images[part]
        row = sum(map(len, self._images[:part]))
        if not any(number in self._paths for number in range(row, row + len(images))):
            return images
        chunks = []
        for chunk in images.data.column("image").chunks:
            paths = pa.array([self._paths.get(row + i) for i in range(len(chunk))], pa.string())
            chunks.append(pa.StructArray.from_arrays([pc.struct_field(chunk, "bytes"), paths], ["bytes", "path"]))
            row += len(chunk)
        return Dataset.from_dict({"image": pa.chunked_array(chunks)}, features=images.features)

    def _same_image(self, one: int, other: int) -> bool:
        if one in self._paths or other in self._paths:
            return self._paths.get(one) == self._paths.get(other)
        return self._digest_of(one) == self._digest_of(other)

    def _digest_of_row(self, row: int) -> bytes:
        for images in self._images:
            if row < len(images):
                return blake2b(images[row]["image"]["bytes"]).digest()
            row -= len(images)
        raise IndexError(row)


def _image_column(part: Part, name: str) -> "Dataset":
    """The column of images alone, as ``image``, encoded as they are."""
    import datasets

    images = part.table.select_columns([name]).cast_column(name, datasets.Image(decode=False))
    return images if name == "image" else images.rename_column(name, "image")


def _image_cells(images: "Dataset") -> Iterator[tuple[Any, str | None]]:
    """Of each row the bytes, as an Arrow scalar, or None; and the path, if there is one."""
    import pyarrow.compute as pc

    for batch in images.with_format("arrow").iter(BATCH):
        cells = batch.column("image")
        encoded = pc.struct_field(cells, "bytes")
        for image, path in zip(encoded, pc.struct_field(cells, "path").to_pylist(), strict=True):
            yield (image if image.is_valid else None), path


def _text_rows(table: "Dataset") -> Iterator[dict[str, Any] | None]:
    """The cells of each row, as rows_of_batch gives them; numbers that stand for classes as the names of these."""
    classes = class_names(table.features)
    for batch in table.with_format("arrow").iter(BATCH):
        for row in rows_of_batch(batch):
            if row is not None:
                row |= {name: class_name(words, row[name]) for name, words in classes.items()}
            yield row


def _digest(encoded: Any) -> str:
    return blake2b(encoded.as_buffer(), digest_size=16).hexdigest()
