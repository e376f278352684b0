"""Raw rows into rows: cells become captions, splits and labels, and the rows of one image are merged."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING

from captioning.data.rows import NO_IMAGE, TWO_IMAGES, UNCAPTIONED, Row, RowIssue, Rows, describe, in_memory
from captioning.data.sources.columns import Cells, EncodedImage, Table
from captioning.data.sources.split_names import split_of
from captioning.data.sources.text_files import is_utf8
from captioning.errors import UserError, shown

if TYPE_CHECKING:
    from datasets import Dataset

    from captioning.data.sources.paths import ImageFolder

CONTRADICTIONS = ("image in two splits", "image in two groups", "image in two strata")


@dataclass(slots=True)
class _MergedRow:
    """What the raw rows of one id say together."""

    image: str | int  # path, or number among all encoded images
    captions: list[str]
    labels: tuple[str | None, ...]  # split, group, stratum; most rows share one tuple
    is_usable: bool = True


def parse_cells(cells: Cells, default_id: str, where: str, *, id_expected: bool) -> tuple[Row | None, list[RowIssue]]:
    """The row of some cells, without its image, or None where it can't be used; and what is wrong with it.

    ``where`` is its place in its source; with ``id_expected`` a row without an id is an issue.
    """
    captions: list[str] = []
    kinds: list[str] = []
    for item in cells.captions if isinstance(cells.captions, (list, tuple)) else (cells.captions,):
        if item is None:
            continue
        if not isinstance(item, str):
            kinds.append("caption isn't text")
        elif "\0" in item:
            kinds.append("caption with a NUL character")
        elif not is_utf8(item):
            kinds.append("caption isn't valid Unicode")
        elif text := " ".join(item.split()):
            captions.append(text)
    if not captions and not kinds:
        kinds.append("empty caption")
    labels: dict[str, str | None] = {}
    problems = []
    for name, cell in {"id": cells.id, "group": cells.group, "stratum": cells.stratum}.items():
        if isinstance(cell, float) and cell.is_integer():  # as pandas writes whole numbers, where some are missing
            cell = int(cell)
        text = "" if _is_empty(cell) else str(cell)
        if text and (not isinstance(cell, (int, float, str)) or "\0" in text or not is_utf8(text)):
            problems.append(f"{name} isn't text or a number")
            text = ""
        labels[name] = text or None
    if id_expected and _is_empty(cells.id):
        problems.append("id is missing")
    split = split_of(cells.split)
    if split is None and not _is_empty(cells.split):
        problems.append(f"unknown split {cells.split!r:.60}")
    row_id = labels["id"] or default_id
    row = Row(id=row_id, image=None, captions=captions, split=split, group=labels["group"], stratum=labels["stratum"])
    name = shown(row_id if row_id == where else f"{row_id} ({where})")
    issues = [RowIssue(kind, name) for kind in (*kinds, *problems[:1])]
    return row if captions and not problems else None, issues


def encoded_row(
    name: str, encoded: bytes | None, cells: Cells, report: Callable[[RowIssue], object], *, id_expected: bool
) -> Iterator[Row]:
    """The row that a shard's cells make; none where something is wrong with it, which is reported."""
    row, issues = parse_cells(cells, name, name, id_expected=id_expected)
    if encoded is None or cells.captions is None:
        row, issues = None, [RowIssue(NO_IMAGE if encoded is None else UNCAPTIONED, name)]
    for issue in issues:
        report(issue)
    if row:
        row["image"] = {"bytes": encoded, "path": None}
        yield row


class RowBuilder:
    """Collects the rows of tables; images that aren't within them are looked for in ``folder``.

    Rows with one id are merged. Where they contradict each other all are left out, whichever came first; so the result
    doesn't depend on their order.
    """

    def __init__(self, folder: "ImageFolder") -> None:
        self.issues: list[RowIssue] = []
        self.names: set[str] = set()  # of images that rows name, found or not
        self.folder = folder
        self._count = 0  # of raw rows
        self._rows: dict[str, _MergedRow] = {}
        self._labels: dict[tuple[str | None, ...], tuple[str | None, ...]] = {}
        self._addresses: dict[str, str] = {}  # by the file that was found for it
        self._ambiguous: set[str | int] = set()  # files found for more than one address
        self._encoded: list[Dataset] = []

    def _leave_out(self, kind: str, name: str) -> None:
        self.issues.append(RowIssue(kind, shown(name)))

    def add(self, table: Table) -> None:
        """Read all rows of a table."""
        offset = sum(map(len, self._encoded))
        if table.images is not None:
            self._encoded.append(table.images)
        for raw in table.rows:
            if isinstance(raw, RowIssue):
                self._leave_out(*raw)
                continue
            self._count += 1
            cells = table.columns.cells(raw.cells)
            if table.split and cells.split in (None, ""):
                cells = cells._replace(split=table.split)
            image: str | int
            default_id = raw.where
            if isinstance(cells.image, EncodedImage):
                image = offset + cells.image.number
                if not table.numbered:
                    default_id = blake2b(cells.image.content.as_buffer(), digest_size=16).hexdigest()
            elif isinstance(cells.image, str) and cells.image:
                found = self.folder.find(cells.image, base=table.base)
                self.names.add(found.name)
                if found.error:
                    self._leave_out(found.error, f"{cells.image} ({raw.where})")
                    continue
                if "://" in cells.image and self._addresses.setdefault(found.path, cells.image) != cells.image:
                    self._ambiguous.add(found.path)
                    self._leave_out("two addresses with one file name", f"{found.name} ({raw.where})")
                image, default_id = found.path, raw.where if table.numbered else found.name
            else:
                self._leave_out(NO_IMAGE, raw.where)
                continue
            row, issues = parse_cells(cells, default_id, raw.where, id_expected=table.columns.id is not None)
            self.issues += issues
            if row:
                self._merge(row, image, raw.where)

    def _merge(self, row: Row, image: str | int, where: str) -> None:
        labels = (row["split"], row["group"], row["stratum"])
        known = self._rows.get(row["id"])
        if known is None:
            self._rows[row["id"]] = _MergedRow(image, row["captions"], self._labels.setdefault(labels, labels))
            return
        known.captions = sorted(known.captions + row["captions"])
        pairs = list(zip(known.labels, labels, strict=True))
        known.labels = tuple(one or other for one, other in pairs)
        kinds = [] if self._is_same(known.image, image) else [TWO_IMAGES]
        kinds += (kind for kind, pair in zip(CONTRADICTIONS, pairs, strict=True) if all(pair) and pair[0] != pair[1])
        if kinds and known.is_usable:
            known.is_usable = False
            self._leave_out(kinds[0], f"{row['id']} ({where})")

    def _is_same(self, one: str | int, other: str | int) -> bool:
        if one == other or isinstance(one, str) or isinstance(other, str):
            return one == other
        contents = []
        for number in (one, other):
            place = number
            for images in self._encoded:
                if 0 <= place < len(images):
                    contents.append(images.data.column("image")[place]["bytes"])
                place -= len(images)
        return bool(contents[0] == contents[1])

    def rows(self, path: str) -> Rows:
        """All that was read, sorted by id; the builder is empty then.

        Raises:
            UserError: nothing usable.
        """
        import datasets
        import pyarrow as pa

        usable = {key: row for key, row in self._rows.items() if row.is_usable and row.image not in self._ambiguous}
        if not usable:
            found = f"none of its {self._count} images can be used" if self._count else "no captions in it"
            looked = " or ".join(f"{subfolder}/NAME" if subfolder else "NAME" for subfolder in self.folder.subfolders)
            why = f"data.path={path}: {found}{': ' + describe(self.issues) if self.issues else ''}"
            where = f"Images were looked for as {looked} in {self.folder.folder}"
            raise UserError(f"{why}. {where}; data.images=FOLDER names another folder")
        ids = sorted(usable)
        rows = [usable[row_id] for row_id in ids]
        # Whole columns side by side, and only then a choice of rows: so encoded images are never copied. Before the
        # rows whose images are files, there is one for each encoded image, used or not.
        tail = count(sum(map(len, self._encoded)))
        places = [row.image if isinstance(row.image, int) else next(tail) for row in rows]
        total = next(tail)

        def column(cells: Iterable[object]) -> list[object]:
            values: list[object] = [None] * total
            for place, cell in zip(places, cells, strict=True):
                values[place] = cell
            return values

        texts = {"id": column(ids), "captions": column(row.captions for row in rows)}
        for label, name in enumerate(("split", "group", "stratum")):
            texts[name] = column(row.labels[label] for row in rows)
        paths = pa.array([row.image for row in rows if isinstance(row.image, str)], pa.string())
        files = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), paths], ["bytes", "path"])
        images = datasets.concatenate_datasets([*self._encoded, in_memory({"image": files})])
        for collected in (self._rows, usable, rows, ids):
            collected.clear()  # or a million rows would be in memory twice
        self.folder.forget()
        table = datasets.concatenate_datasets([images, in_memory(texts)], axis=1)
        return Rows(table.select(places) if self._encoded else table, tuple(self.issues))


def _is_empty(cell: object) -> bool:
    return cell is None or cell == "" or cell != cell  # NaN is what pandas writes for nothing
