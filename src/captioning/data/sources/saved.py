"""A data set that `datasets` saved to disk, as rows."""

from pathlib import Path

from captioning.data.rows import USUAL, Columns, Rows
from captioning.data.sources.datasets_tables import Part, read_parts
from captioning.data.sources.paths import ImageFolder
from captioning.errors import UserError, reason


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` made the folder."""
    files = {name for name in ("dataset_dict.json", "state.json", "dataset_info.json") if (folder / name).is_file()}
    return "dataset_dict.json" in files or {"state.json", "dataset_info.json"} <= files


def read_saved(path: Path, *, images: Path | None = None, columns: Columns = USUAL) -> Rows:
    """A ``Dataset`` or ``DatasetDict`` of ``save_to_disk``, with the splits that it gives.

    Raises:
        UserError: it can't be read, leads out of the folder, has no such columns, or nothing usable in it.
    """
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # what is wrong with a damaged folder, each of its files says in its own way
        raise UserError(
            f"data.path={path}: can't be read as a saved data set ({reason(error, name_file=True)})"
        ) from error
    named = saved if isinstance(saved, datasets.DatasetDict) else {None: saved}
    folder = ImageFolder(path)
    if outside := [
        file["filename"] for table in named.values() for file in table.cache_files if not folder.holds(file["filename"])
    ]:
        raise UserError(f"data.path={path}: names a file outside of the data folder ({outside[0]})")
    parts = [Part(table, split, path.name if split is None else split) for split, table in named.items()]
    return read_parts(parts, str(path), columns, ImageFolder(images or path))
