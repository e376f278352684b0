"""Streamed data sets of the Hugging Face Hub: downloaded as they are read, and not kept."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import get_worker_info

from captioning.data.images import ImageSource
from captioning.data.rows import OUTSIDE, USUAL, Columns, Problem, Row
from captioning.data.shards import UNREADABLE, UNREADABLE_IMAGE, Report, Shards, digest
from captioning.data.sources.columns import ColumnNames, class_name, class_names, find_image_columns
from captioning.data.sources.row_builder import rows_of
from captioning.data.sources.split_names import split_of
from captioning.errors import UserError, reason
from captioning.hub import CONNECT_TIMEOUT_S, snapshot

FEW_SHARDS = 16  # so few are cut up further


def hub_shards(
    path: str, *, subset: str | None = None, revision: str | None = None, columns: Columns = USUAL
) -> Shards:
    """All splits of a data set of the Hub, or of a folder that looks like one.

    Its commit is fixed when this is called, so that all that is read of it is of one version. Where the rows have a
    column of splits it goes before the Hub's own splits.

    Args:
        path: ``USER/NAME``, or the folder.
        subset: which of the data set's configurations, where it has several.
        revision: a branch, tag or commit; the newest commit when not given.
        columns: the image's is ``image`` and the captions' the first of ``text``, ``caption``, ``captions`` when not
            given.

    Raises:
        UserError: it can't be had, or has no such columns or subset, or no split that is known.
    """
    import datasets

    place, commit = _place_of(path, revision)
    try:
        streams = datasets.load_dataset(place, name=subset, revision=commit, streaming=True)
    except (ValueError, OSError, datasets.exceptions.DatasetGenerationError) as error:
        raise UserError(
            f"data.path={path}: can't be streamed with data.subset={subset or 'null'} "
            f"({reason(error.__cause__ or error)})"
        ) from error
    splits = [_prepared(str(name), stream, columns, path) for name, stream in streams.items()]
    # That of a split which nobody knows is told without reading all its rows.
    usable = [split for split in splits if split.names.split or split_of(split.name)]
    problems = tuple(Problem(f"unknown split {its.name!r:.60}", its.name) for its in splits if its not in usable)
    if not usable:
        raise UserError(
            f"data.path={path}: its rows are in {', '.join(its.name for its in splits)}, not in train, val or test; "
            "data.split_column=COLUMN names a column that says it of each row"
        )
    parts = [_Part(split, number) for split in usable for number in range(split.stream.num_shards)]
    root = _root_of(Path(place)) if commit is None else f"hf://datasets/{path}@{commit}"
    reader = _HubReader(parts, root)
    labels = tuple(part.label for part in parts)
    version = commit or _files_below(Path(place))
    return Shards(
        path=path,
        labels=labels,
        fingerprint=digest(place, version, subset, columns, labels),
        read=reader.read,
        problems=problems,
        splits=tuple(None if part.split.names.split else split_of(part.split.name) for part in parts),
        local=commit is None,
    )


@dataclass(frozen=True)
class _Split:
    name: str  # as the data set calls it
    stream: Any  # a datasets.IterableDataset
    names: ColumnNames


@dataclass(frozen=True)
class _Part:
    """A shard."""

    split: _Split
    number: int  # within its split

    @property
    def label(self) -> str:
        return f"{self.split.name}-{self.number:05d}"


def _prepared(name: str, stream: Any, columns: Columns, path: str) -> _Split:
    """A split with its images encoded as they are, and cut into enough shards.

    Raises:
        UserError: it has no such columns.
    """
    import datasets

    if stream.features is None:
        raise UserError(f"data.path: {path} ({name}) doesn't say what columns it has, so it can only be read whole")
    names = find_image_columns(f"{path} ({name})", stream.features, columns, paths=False)
    if stream.num_shards < FEW_SHARDS:
        with suppress(ValueError, OSError):  # of a damaged file, which is left out when it is read
            stream = stream.reshard()  # readers that share a shard each download all of it
    stream = stream.cast_column(names.image, datasets.Image(decode=False)).select_columns([names.image, *names.of_text])
    return _Split(name, stream, names)


def _place_of(path: str, revision: str | None) -> tuple[str, str | None]:
    """What ``datasets`` is to load, and its commit: the name, or a folder on this machine, which has none."""
    from huggingface_hub import HfApi

    if Path(path).expanduser().is_dir():
        return str(Path(path).expanduser()), None
    try:
        info = HfApi().repo_info(path, repo_type="dataset", revision=revision, timeout=CONNECT_TIMEOUT_S)
    except Exception:  # of the client, or of the library that it happens to use for HTTP
        way_out = "Name another with data.path=USER/NAME, or tar shards on this machine with data.path=FOLDER"
        return str(snapshot(path, setting="data.path", repo_type="dataset", revision=revision, way_out=way_out)), None
    return path, info.sha


def _root_of(folder: Path) -> str:
    folder = folder.resolve()
    # The Hub's cache keeps the files of a repository beside its snapshots, which hold links to them.
    return str(folder.parent.parent if folder.parent.name == "snapshots" else folder)


def _files_below(folder: Path) -> list[tuple[str, int, int]]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


@dataclass(frozen=True)
class _HubReader:
    parts: Sequence[_Part]
    root: str  # images that the data refer to are only read below

    def read(self, index: int, report: Report) -> Iterator[Row]:
        part = self.parts[index]
        names = part.split.names
        for number, line in enumerate(_lines(part, report)):
            name = f"{part.label}-{number:06d}"
            source: ImageSource | None = line[names.image]
            if not self._is_inside(source):
                report(Problem(OUTSIDE, name))
                continue
            try:
                encoded = _encoded(source)
            except OSError as error:
                report(Problem(f"{UNREADABLE_IMAGE}: {reason(error)}", name))
                continue
            cells = names.cells(line)
            if cells.split in (None, ""):
                cells = cells._replace(split=part.split.name)
            yield from rows_of(name, encoded, cells, report, id_expected=names.id is not None)

    def _is_inside(self, source: ImageSource | None) -> bool:
        if source is None or source["bytes"] is not None or source["path"] is None:
            return True
        *archives, path = source["path"].split("::")  # as in zip://a.png::hf://datasets/USER/NAME/train.zip
        if "://" not in self.root:
            path = str(Path(path).resolve())
        in_archive = all(archive.startswith("zip://") for archive in archives)
        return in_archive and path.startswith(f"{self.root}/") and ".." not in path.split("/")


def _lines(part: _Part, report: Report) -> Iterator[dict[str, Any]]:
    """The cells of each row of a shard."""
    if get_worker_info() is not None:
        import fsspec

        fsspec.asyn.reset_lock()  # a worker that was forked while the lock was held would wait for ever
    whole = part.split.stream
    stream = whole.shard(num_shards=whole.num_shards, index=part.number)
    classes = class_names(stream.features)
    try:
        # By batches, because otherwise `datasets` deals the rows to the workers of a DataLoader by itself.
        for batch in stream.iter(batch_size=16):
            for values in zip(*batch.values(), strict=True):
                line = dict(zip(batch, values, strict=True))
                yield line | {name: class_name(words, line[name]) for name, words in classes.items()}
    except Exception as error:  # of the network, of Parquet, of whatever format the files have
        report(Problem(f"{UNREADABLE}: {reason(error)}", part.label))


def _encoded(source: ImageSource | None) -> bytes | None:
    if source is None or source["bytes"] is not None or source["path"] is None:
        return source["bytes"] if source else None
    import fsspec

    with fsspec.open(source["path"], "rb") as file:
        return bytes(file.read())
