"""Checkpoints as files: written in the background, whole or not at all, and found again whatever happened to them."""

import logging
import os
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_only
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from captioning.errors import UserError, reason
from captioning.files import replacing

_warn = rank_zero_only(logging.getLogger(__name__).warning)

SUFFIX = ".ckpt"
LAST, PREVIOUS = f"last{SUFFIX}", f"previous{SUFFIX}"
# What a checkpoint of a training has, and one of something else hasn't.
KEYS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step", "is_between_steps"}


class CheckpointWriter(TorchCheckpointIO):
    """Writes checkpoints while training goes on, one after the other.

    Training waits for a copy of the state in memory, and for the writing only when the next checkpoint comes before it
    is done. A file takes its name once it is on the disk as a whole. Files are removed in turn with that, so an old
    best checkpoint is there until the new one is; after a write that failed nothing is written or removed any more.
    What is saved twice, as the newest state that is the best one too, is written once and has two names.

    The memory for the copy, of a checkpoint's size, is kept for the next one: to be given it anew by the system takes
    longer than to copy. The writing gives way to all else: training on all cores, a step takes as long as the core that
    does two things.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._newest: Future[None] | None = None
        self._failure: Exception | None = None
        self._copied: Any = None  # the newest copy
        self._path: Path | None = None  # where it went

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint, unless an earlier one couldn't be written; ``error`` says so."""
        path = Path(path)
        if self._path and self._path != path and _is_equal(checkpoint, self._copied):
            self._do(partial(_link, self._copied, self._path, path))
        else:
            self.wait()
            self._copied, self._path = self._copy(checkpoint), path
            self._do(partial(_write, self._copied, path))

    def remove_checkpoint(self, path: Any) -> None:
        self._do(partial(Path(path).unlink, missing_ok=True))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        self.wait()
        # Mapped, because most of it is copied into tensors that are there already; and no pickle of more than data.
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
        return loaded

    @property
    def error(self) -> UserError | None:
        """Why a checkpoint couldn't be written, once that is known."""
        if self._failure is not None and not isinstance(self._failure, UserError):
            raise self._failure
        return self._failure

    def wait(self) -> None:
        """Wait until all is written, or ``error`` says why not."""
        if self._newest:
            self._newest.result()

    def teardown(self) -> None:
        if self._thread:
            self._thread.shutdown(wait=True)
        self._thread = self._copied = self._path = None

    def _copy(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """A copy that training doesn't change."""
        free = defaultdict(list)
        for buffer in tree_leaves(self._copied):
            if isinstance(buffer, torch.Tensor):
                free[buffer.shape, buffer.dtype].append(buffer)

        def copied(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return deepcopy(value)
            fitting = free[value.shape, value.dtype]
            buffer = fitting.pop() if fitting else torch.empty(value.shape, dtype=value.dtype)
            return buffer.copy_(value.detach())

        copy: dict[str, Any] = tree_map(copied, checkpoint)
        return copy

    def _do(self, work: Callable[[], object]) -> None:
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint", initializer=_give_way)
        self._newest = self._thread.submit(self._unless_failed, work)

    def _unless_failed(self, work: Callable[[], object]) -> None:
        try:
            if self._failure is None:
                work()
        except Exception as failure:  # told by `error`, to whoever asks
            self._failure = failure


def writer_of(trainer: L.Trainer) -> CheckpointWriter:
    """The writer that the trainer was given."""
    writer = trainer.strategy.checkpoint_io
    assert isinstance(writer, CheckpointWriter)
    return writer


def _give_way() -> None:
    if sys.platform == "linux":  # where it is of a thread; elsewhere, of the whole process
        os.nice(19)


def _is_equal(checkpoint: dict[str, Any], copy: dict[str, Any]) -> bool:
    """Whether a checkpoint has the state of a copy. Only the clock went on."""
    (values, structure), (others, other_structure) = (
        tree_flatten({**one, "callbacks": {**one.get("callbacks", {}), Timer.__name__: None}})
        for one in (checkpoint, copy)
    )
    pairs = list(zip(values, others, strict=False))
    plain = [pair for pair in pairs if not isinstance(pair[0], torch.Tensor)]
    tensors = [pair for pair in pairs if isinstance(pair[0], torch.Tensor)]
    return (  # what is read soonest comes first
        structure == other_structure
        and all(value == other for value, other in plain)
        and all(
            isinstance(other, torch.Tensor) and value.dtype == other.dtype and torch.equal(value.cpu(), other)
            for value, other in tensors
        )
    )


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with _placed(path) as part, part.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())


def _link(checkpoint: dict[str, Any], old: Path, path: Path) -> None:
    """Give a file that holds the checkpoint another name, or write it again where a disk can't."""
    try:
        with _placed(path) as part:
            part.hardlink_to(old)
    except UserError:
        _write(checkpoint, path)


@contextmanager
def _placed(path: Path) -> Iterator[Path]:
    """A file to write or link that takes the place of a checkpoint once it is whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            yield part
            if path.name == LAST and path.exists():
                path.replace(path.with_name(PREVIOUS))  # should the disk spoil the new one later
        _sync(path.parent)
    except (OSError, RuntimeError) as error:  # the latter is how torch says that not all could be written
        cause = error if isinstance(error, OSError) else error.__context__
        why = reason(cause) if isinstance(cause, OSError) else str(error).splitlines()[0]
        raise UserError(f"{path}: the checkpoint can't be written ({why}); those before it are whole") from error


def _sync(folder: Path) -> None:
    """Have the disk know the names in a folder."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


# ------------------------------------------------------------ finding one to go on from


class Found(NamedTuple):
    """A checkpoint that is whole."""

    path: Path
    step: int
    content: Mapping[str, Any]  # its tensors are on the disk until they are used


class DamagedError(UserError):
    """A file isn't whole."""


def newest_checkpoint(folder: Path) -> tuple[Found | None, list[Path]]:
    """The checkpoint of the latest step in a folder that is whole, if there is one, and those that are damaged.

    All of it is read and held against its checksums, which torch doesn't: a file may have the right length and wrong
    bytes. It is said of each that is passed over.
    """
    readable, damaged = [], []
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.name != LAST):  # the last before its equals
        try:
            readable.append(read_checkpoint(path))
        except UserError as error:
            damaged += [path] if isinstance(error, DamagedError) else []
            _warn(f"passed over: {error}")
    for found in sorted(readable, key=lambda found: found.step, reverse=True):
        try:
            _require_sums(found.path)
        except DamagedError as error:
            damaged.append(found.path)
            _warn(f"passed over: {error}")
        else:
            return found, damaged
    return None, damaged


def read_checkpoint(path: Path) -> Found:
    """A checkpoint as far as it can be told without reading all of it.

    Raises:
        UserError: it isn't one of a training, or damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise DamagedError(f"{path}: damaged, or no checkpoint ({reason(error)[:100]})") from error
    if not isinstance(content, dict) or not content.keys() >= KEYS:
        raise UserError(f"{path}: no checkpoint of a training of this project")
    if not content["is_between_steps"]:
        raise UserError(f"{path}: saved within a step (trainer.val_check_interval counts micro-batches)")
    return Found(path, content["global_step"], content)


def _require_sums(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise DamagedError(f"{path}: damaged ({reason(error)})") from error
    if damaged:
        raise DamagedError(f"{path}: damaged (in {damaged})")
