"""Streamed data sets of the Hugging Face Hub: downloaded as they are read, and not kept."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import get_worker_info

from captioning.data.rows import OUTSIDE, USUAL, Columns, Row, RowIssue
from captioning.data.shards import UNREADABLE, UNREADABLE_IMAGE, Report, Shards, digest
from captioning.data.sources.columns import ColumnNames, find_image_columns, name_classes
from captioning.data.sources.row_builder import encoded_row
from captioning.data.sources.split_names import split_of
from captioning.data.sources.tables import loading
from captioning.errors import UserError, reason
from captioning.hub import CONNECT_TIMEOUT_S, snapshot

MIN_SHARDS = 16  # a split of fewer is cut up further


def hub_shards(
    path: str, *, subset: str | None = None, revision: str | None = None, columns: Columns = USUAL
) -> Shards:
    """All splits of a data set of the Hub, or of a folder that looks like one.

    Its commit is fixed when this is called, so that all that is read of it is of one version. Where the rows have a
    column of splits it goes before the Hub's own splits.

    Raises:
        UserError: it can't be had, or has no such columns or subset, or no split that is known.
    """
    import datasets
    from huggingface_hub import HfApi

    place, commit = str(Path(path).expanduser()), None  # what `datasets` loads: a folder on this machine has no commit
    if not Path(place).is_dir():
        place = path
        with suppress(Exception):  # of the client, or of the library that it happens to use for HTTP; snapshot says why
            commit = HfApi().repo_info(path, repo_type="dataset", revision=revision, timeout=CONNECT_TIMEOUT_S).sha
        if not commit:
            way_out = "Name another with data.path=USER/NAME, or tar shards on this machine with data.path=FOLDER"
            place = str(snapshot(path, setting="data.path", repo_type="dataset", revision=revision, way_out=way_out))
    with loading(f"data.path={path}", f"a data set with data.subset={subset or 'null'}"):
        streams = datasets.load_dataset(place, name=subset, revision=commit, streaming=True)
    parts: list[_Part] = []
    issues: list[RowIssue] = []
    for name, stream in streams.items():
        if stream.features is None:
            raise UserError(f"data.path: {path} ({name}) doesn't say what columns it has, so it can only be read whole")
        names = find_image_columns(f"{path} ({name})", stream.features, columns, paths=False)
        if not names.split and not split_of(str(name)):
            issues.append(RowIssue(f"unknown split {str(name)!r:.60}", str(name)))
            continue
        if stream.num_shards < MIN_SHARDS:
            with suppress(ValueError, OSError):  # of a damaged file, which is left out when it is read
                stream = stream.reshard()  # readers that share a shard each download all of it
        stream = stream.select_columns([names.image, *names.texts])
        stream = stream.cast_column(names.image, datasets.Image(decode=False))
        parts += (_Part(str(name), stream, names, number) for number in range(stream.num_shards))
    if not parts:
        why = f"data.path={path}: its rows are in {', '.join(map(str, streams))}, not in train, val or test"
        raise UserError(f"{why}; data.split_column=COLUMN names a column that says it of each row")
    root = f"hf://datasets/{path}@{commit}"
    if commit is None:
        folder = Path(place).resolve()
        # The Hub's cache keeps the files of a repository beside its snapshots, which hold links to them.
        root = str(folder.parent.parent if folder.parent.name == "snapshots" else folder)
    labels = tuple(part.label for part in parts)
    files = sorted(file for file in Path(place).rglob("*") if file.is_file()) if commit is None else []
    version = commit or [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return Shards(
        path=path,
        labels=labels,
        fingerprint=digest(place, version, subset, columns, labels),
        read=partial(_read_part, parts, root),
        issues=tuple(issues),
        splits=tuple(None if part.names.split else split_of(part.split) for part in parts),
        local=commit is None,
    )


class _Part(NamedTuple):
    """A shard."""

    split: str  # as the data set calls it
    stream: Any  # of the whole split, a datasets.IterableDataset
    names: ColumnNames
    number: int  # within its split

    @property
    def label(self) -> str:
        return f"{self.split}-{self.number:05d}"

    def raw_rows(self, report: Report) -> Iterator[dict[str, Any]]:
        """The cells of each row, as far as the shard can be read."""
        if get_worker_info() is not None:
            import fsspec

            fsspec.asyn.reset_lock()  # a worker that was forked while the lock was held would wait for ever
        shard = self.stream.shard(num_shards=self.stream.num_shards, index=self.number)
        try:
            # By batches, because otherwise `datasets` deals the rows to the workers of a DataLoader.
            for batch in shard.iter(batch_size=16):
                for values in zip(*batch.values(), strict=True):
                    yield name_classes(dict(zip(batch, values, strict=True)), shard.features)
        except Exception as error:  # of the network, of Parquet, of whatever format the files have
            report(RowIssue(f"{UNREADABLE}: {reason(error)}", self.label))


def _read_part(parts: list[_Part], root: str, index: int, report: Report) -> Iterator[Row]:
    """The rows of a shard; images that they refer to are only read below ``root``."""
    import fsspec

    part = parts[index]
    for number, cells in enumerate(part.raw_rows(report)):
        name = f"{part.label}-{number:06d}"
        image = cells[part.names.image] or {}
        encoded, path = image.get("bytes"), image.get("path")
        if encoded is None and path is not None:
            *archives, file = path.split("::")  # as in zip://a.png::hf://datasets/USER/NAME/train.zip
            file = file if "://" in root else str(Path(file).resolve())
            in_archives = all(archive.startswith("zip://") for archive in archives)
            if not (in_archives and file.startswith(f"{root}/") and ".." not in file.split("/")):
                report(RowIssue(OUTSIDE, name))
                continue
            try:
                with fsspec.open(path, "rb") as opened:
                    encoded = bytes(opened.read())
            except OSError as error:
                report(RowIssue(f"{UNREADABLE_IMAGE}: {reason(error)}", name))
                continue
        row = part.names.cells(cells)
        if row.split in (None, ""):
            row = row._replace(split=part.split)
        yield from encoded_row(name, encoded, row, report, id_expected=part.names.id is not None)
