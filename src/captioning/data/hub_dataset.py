"""A data set of the Hugging Face Hub, as rows."""

from typing import TYPE_CHECKING

from captioning.data.rows import (
    CAPTION_COLUMNS,
    Problem,
    Rows,
    clean_captions,
    require_columns,
    row_features,
    split_name,
)
from captioning.errors import UserError
from captioning.hub import snapshot

if TYPE_CHECKING:
    from datasets import Dataset


def read_hub(
    path: str,
    *,
    subset: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> Rows:
    """A data set of the Hugging Face Hub, with the splits that it gives.

    Args:
        path: ``USER/NAME``.
        subset: which of the data set's configurations, where it has several.
        image_column: the column with pictures; ``image`` when not given.
        caption_column: the column with a caption, or a list of captions.

    Raises:
        UserError: it can't be had, has no such columns or subset, or nothing usable in it.
    """
    import datasets  # a second to import, and a folder of pictures doesn't need it before its table is made

    way_out = (
        "Public mirrors of a data set come and go: name another with data.path=USER/NAME, use pictures on this "
        "machine with data=folder data.path=FOLDER, or the embedded data=creatures"
    )
    folder = snapshot(path, setting="data.path", repo_type="dataset", way_out=way_out)
    try:
        parts = datasets.load_dataset(str(folder), name=subset)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetGenerationError) as error:
        # Of an error while the data set is made, only the cause says what it was.
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(
            f"data.path={path}: can't be read as a data set with data.subset={subset or 'null'} ({reason})"
        ) from error
    tables = [_hub_table(part, name, path, image_column or "image", caption_column) for name, part in parts.items()]
    return _without_empty(datasets.concatenate_datasets(tables), path)


def _hub_table(part: "Dataset", split: str, path: str, image_column: str, caption_column: str | None) -> "Dataset":
    import datasets

    where = f"{path} ({split})"
    caption_column = caption_column or next((n for n in CAPTION_COLUMNS if n in part.column_names), "text")
    require_columns(where, part.column_names, image_column=image_column, caption_column=caption_column)
    if not isinstance(part.features[image_column], datasets.Image):
        raise UserError(
            f"data.image_column={image_column}: {where} has {part.features[image_column]} there, no pictures"
        )
    captions = [clean_captions(value, where) for value in part[caption_column]]
    table = part.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    table = table.rename_column(image_column, "image") if image_column != "image" else table
    table = table.cast(datasets.Features(image=row_features()["image"]))
    name = split_name(split, where)
    for column, values in (
        ("id", [f"{split}-{number:07d}" for number in range(len(part))]),
        ("captions", captions),
        ("split", [name] * len(part)),
    ):
        table = table.add_column(column, values, feature=row_features()[column])
    return table


def _without_empty(table: "Dataset", path: str) -> Rows:
    kept = [index for index, captions in enumerate(table["captions"]) if captions]
    if not kept:
        raise UserError(f"data.path={path}: none of its {len(table)} pictures has a caption")
    rows = Rows(table)
    if len(kept) == len(table):
        return rows
    lost = sorted(set(range(len(table))) - set(kept))
    return rows.select(kept, [Problem("empty caption", table[index]["id"]) for index in lost])
