"""Rows from plain lists."""

from collections.abc import Iterable

from captioning.data.images import ImageSource
from captioning.data.rows import RowIssue, Rows, in_memory


def make_rows(
    *,
    ids: list[str],
    images: list[ImageSource],
    captions: list[list[str]],
    splits: list[str | None],
    groups: list[str | None] | None = None,
    strata: list[str | None] | None = None,
    issues: Iterable[RowIssue] = (),
) -> Rows:
    """Rows from columns of equal length; ids are unique and sorted."""
    none = [None] * len(ids)
    columns = {"id": ids, "image": images, "captions": captions, "split": splits}
    return Rows(in_memory(columns | {"group": groups or none, "stratum": strata or none}), tuple(issues))
