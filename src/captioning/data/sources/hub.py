"""A data set of the Hugging Face Hub."""

from captioning.data.rows import USUAL, Columns, Rows
from captioning.data.sources.paths import ImageFolder
from captioning.data.sources.row_builder import RowBuilder
from captioning.data.sources.tables import dataset_tables, loading
from captioning.hub import snapshot


def read_hub(path: str, *, subset: str | None = None, revision: str | None = None, columns: Columns = USUAL) -> Rows:
    """The data set ``path`` (``USER/NAME``) of the Hugging Face Hub, with the splits that it gives.

    The image's column is by default the only one that holds images, or else the first of the usual names. A column of
    splits goes before the Hub's own splits: some data sets keep all rows in one of these.

    Raises:
        UserError: it can't be had, has no such columns or subset, or nothing usable in it.
    """
    import datasets  # a second to import, and a data set that can't be had is answered without it

    way_out = (
        "Public mirrors of a data set come and go: name another with data.path=USER/NAME, use images on this "
        "machine with data=folder data.path=FOLDER, or the embedded data=creatures"
    )
    folder = snapshot(path, setting="data.path", repo_type="dataset", revision=revision, way_out=way_out)
    with loading(f"data.path={path}", f"a data set with data.subset={subset or 'null'}"):
        tables = datasets.load_dataset(str(folder), name=subset)
    builder = RowBuilder(ImageFolder(folder))
    for table in dataset_tables(tables, path, columns):
        builder.add(table)
    return builder.rows(path)
