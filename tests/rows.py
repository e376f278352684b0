"""Rows from plain lists."""

from collections.abc import Iterable

import pyarrow as pa

from captioning.data.images import ImageSource
from captioning.data.rows import Problem, Rows, row_features, rows_of_arrays


def make_rows(
    *,
    ids: list[str],
    images: list[ImageSource],
    captions: list[list[str]],
    splits: list[str | None],
    groups: list[str | None] | None = None,
    strata: list[str | None] | None = None,
    problems: Iterable[Problem],
) -> Rows:
    """Rows from columns of equal length, sorted by id; ids are unique."""
    none = [None] * len(ids)
    columns = {"id": ids, "image": images, "captions": captions, "split": splits}
    columns |= {"group": groups or none, "stratum": strata or none}
    schema = row_features().arrow_schema
    return rows_of_arrays({field.name: pa.array(columns[field.name], field.type) for field in schema}, problems)
