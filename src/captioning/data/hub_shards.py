"""Streamed data sets of the Hugging Face Hub: downloaded as they are read, and not kept."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import get_worker_info

from captioning.data.pictures import PictureSource
from captioning.data.rows import OUTSIDE, USUAL, Columns, Problem, Row
from captioning.data.shards import UNREADABLE, Report, Shards, digest, reason, rows_of
from captioning.data.sources.columns import IMAGE_COLUMNS, ColumnNames, find_columns
from captioning.errors import UserError
from captioning.hub import CONNECT_TIMEOUT_S, snapshot

FEW_SHARDS = 16  # so few are cut up further


def hub_shards(
    path: str,
    *,
    subset: str | None = None,
    revision: str | None = None,
    split: str = "train",
    columns: Columns = USUAL,
) -> Shards:
    """A split of a data set of the Hub, or of a folder that looks like one.

    Its commit is fixed when this is called, so that all that is read of it is of one version.

    Args:
        path: ``USER/NAME``, or the folder.
        subset: which of the data set's configurations, where it has several.
        revision: a branch, tag or commit; the newest commit when not given.
        split: as the data set calls it.
        columns: the picture's is ``image`` and the captions' the first of ``text``, ``caption``, ``captions`` when not
            given.

    Raises:
        UserError: it can't be had, or has no such columns, subset or split.
    """
    import datasets

    place, commit = _place_of(path, revision)
    try:
        stream = datasets.load_dataset(place, name=subset, split=split, revision=commit, streaming=True)
    except (ValueError, OSError, datasets.exceptions.DatasetGenerationError) as error:
        raise UserError(
            f"data.path={path}: can't be streamed with data.subset={subset or 'null'} and the split {split} "
            f"({reason(error.__cause__ or error)})"
        ) from error
    if stream.num_shards < FEW_SHARDS:
        with suppress(ValueError, OSError):  # of a damaged file, which is left out when it is read
            stream = stream.reshard()  # readers that share a shard each download all of it
    names = _columns_there(stream, columns, f"{path} ({split})")
    stream = stream.cast_column(names.image, datasets.Image(decode=False)).select_columns([names.image, *names.of_text])
    reader = _HubReader(
        stream,
        labels=tuple(f"{split}-{index:05d}" for index in range(stream.num_shards)),
        names=names,
        root=_root_of(Path(place)) if commit is None else f"hf://datasets/{path}@{commit}",
    )
    version = commit or _files_below(Path(place))
    return Shards(
        path=path,
        labels=reader.labels,
        fingerprint=digest(place, version, subset, split, columns, len(reader.labels)),
        read=reader.read,
    )


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


def _columns_there(stream: Any, columns: Columns, where: str) -> ColumnNames:
    import datasets

    if stream.features is None:
        raise UserError(f"data.path: {where} doesn't say what columns it has, so that it can only be read whole")
    typed = [name for name, feature in stream.features.items() if isinstance(feature, datasets.Image)]
    usual = typed if len(typed) == 1 else ("image", *IMAGE_COLUMNS)
    names = find_columns(where, list(stream.features), columns, usual_images=usual)
    feature = stream.features[names.image]
    if names.image not in typed and getattr(feature, "dtype", None) not in ("binary", "large_binary"):
        raise UserError(f"data.image_column={names.image}: {where} has {feature} there, no pictures")
    return names


@dataclass(frozen=True)
class _HubReader:
    stream: Any  # a datasets.IterableDataset
    labels: tuple[str, ...]
    names: ColumnNames
    root: str  # pictures that the data refer to are only read below

    def read(self, index: int, report: Report) -> Iterator[Row]:
        for number, line in enumerate(self._lines(index, report)):
            name = f"{self.labels[index]}-{number:06d}"
            source: PictureSource | None = line[self.names.image]
            if not self._is_inside(source):
                report(Problem(OUTSIDE, name))
                continue
            try:
                encoded = _encoded(source)
            except OSError as error:
                report(Problem(f"picture can't be read: {reason(error)}", name))
            else:
                cells = self.names.cells(line)
                yield from rows_of(name, encoded, cells, report, id_expected=self.names.id is not None)

    def _lines(self, index: int, report: Report) -> Iterator[dict[str, Any]]:
        if get_worker_info() is not None:
            import fsspec

            fsspec.asyn.reset_lock()  # a worker that was forked while the lock was held would wait for ever
        part = self.stream.shard(num_shards=len(self.labels), index=index)
        classes = {name: kind.names for name, kind in part.features.items() if hasattr(kind, "names")}
        try:
            # By batches, because otherwise `datasets` deals the rows to the workers of a DataLoader by itself.
            for batch in part.iter(batch_size=16):
                for values in zip(*batch.values(), strict=True):
                    line = dict(zip(batch, values, strict=True))
                    for name, words in classes.items():
                        line[name] = None if line[name] is None else words[line[name]]
                    yield line
        except Exception as error:  # of the network, of Parquet, of whatever format the files have
            report(Problem(f"{UNREADABLE}: {reason(error)}", self.labels[index]))

    def _is_inside(self, source: PictureSource | None) -> bool:
        if source is None or source["bytes"] is not None or source["path"] is None:
            return True
        *archives, path = source["path"].split("::")  # as in zip://a.png::hf://datasets/USER/NAME/train.zip
        if "://" not in self.root:
            path = str(Path(path).resolve())
        in_archive = all(archive.startswith("zip://") for archive in archives)
        return in_archive and path.startswith(f"{self.root}/") and ".." not in path.split("/")


def _encoded(source: PictureSource | None) -> bytes | None:
    if source is None or source["bytes"] is not None or source["path"] is None:
        return source["bytes"] if source else None
    import fsspec

    with fsspec.open(source["path"], "rb") as file:
        return bytes(file.read())
