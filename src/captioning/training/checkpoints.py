"""Checkpoints as files: written in the background, whole or not at all, and found again whatever happened to them."""

import logging
import os
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, TypeVar

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_only
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from captioning.errors import UserError, reason
from captioning.files import replacing
from captioning.training.loop_state import State

T = TypeVar("T")
_warn = rank_zero_only(logging.getLogger(__name__).warning)

SUFFIX = ".ckpt"
LAST, PREVIOUS = f"last{SUFFIX}", f"previous{SUFFIX}"
# What a checkpoint of a training has, and one of something else hasn't.
KEYS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step", "is_between_steps"}


class CheckpointWriter(TorchCheckpointIO):
    """Writes checkpoints while training continues, one after the other.

    Training waits for a copy of the state in memory, whose buffers are kept for the next one. A file takes its name
    once all of it is on the disk, and an old best checkpoint is removed only after that; after a write that failed
    nothing is written or removed any more. A state that is saved twice is written once and has two names.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._newest: Future[None] | None = None
        self._copied: State | None = None  # the newest copy
        self._path: Path | None = None  # where it went

    def save_checkpoint(self, checkpoint: State, path: str | Path, storage_options: object = None) -> None:
        """Write a checkpoint, unless an earlier one couldn't be written; ``error`` says so."""
        path = Path(path)
        if self._copied and self._path != path and self._is_copied(checkpoint, self._copied):
            self._do(partial(_write, self._copied, path, same_as=self._path))
        else:
            self.wait()
            self._copied, self._path = self._copy(checkpoint), path
            self._do(partial(_write, self._copied, path))

    def remove_checkpoint(self, path: str | Path) -> None:
        self._do(partial(Path(path).unlink, missing_ok=True))

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None) -> State:
        self.wait()
        # Mapped, because most of it is copied into tensors that are there already; and no pickle of more than data.
        loaded: State = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
        return loaded

    @property
    def error(self) -> UserError | None:
        """Why a checkpoint couldn't be written, once that is known."""
        error = self._newest.exception() if self._newest and self._newest.done() else None
        if error is not None and not isinstance(error, UserError):
            raise error
        return error

    def wait(self) -> None:
        """Wait until all is written, or ``error`` says why not."""
        wait([self._newest] if self._newest else [])

    def teardown(self) -> None:
        if self._thread:
            self._thread.shutdown(wait=True)
        self._thread = self._copied = self._path = None

    @staticmethod
    def _is_copied(checkpoint: State, copy: State) -> bool:
        """Whether a checkpoint has the state of a copy, but for the clock."""

        def is_same(one: Any, other: Any) -> bool:
            if torch.is_tensor(one) and torch.is_tensor(other):
                return one.dtype == other.dtype and torch.equal(one.cpu(), other)
            return not torch.is_tensor(one) and not torch.is_tensor(other) and bool(one == other)

        (values, structure), (others, other_structure) = (
            tree_flatten({**state, "callbacks": {**state.get("callbacks", {}), Timer.__name__: None}})
            for state in (checkpoint, copy)
        )
        return structure == other_structure and all(map(is_same, values, others))

    def _copy(self, checkpoint: State) -> State:
        """A copy that training doesn't change."""
        free = defaultdict(list)
        for buffer in tree_leaves(self._copied):
            if isinstance(buffer, torch.Tensor):
                free[buffer.shape, buffer.dtype].append(buffer)

        def copied(value: object) -> object:
            if not isinstance(value, torch.Tensor):
                return deepcopy(value)
            fitting = free[value.shape, value.dtype]
            buffer = fitting.pop() if fitting else torch.empty(value.shape, dtype=value.dtype)
            return buffer.copy_(value.detach())

        copy: State = tree_map(copied, checkpoint)
        return copy

    def _do(self, work: Callable[[], object]) -> None:
        before = self._newest

        def after() -> None:
            if before:
                before.result()  # an earlier failure is that of all that comes after it
            work()

        if self._thread is None:
            # Or a training step waits for the core that does two things. On Linux, where priority is of a thread.
            give_way = partial(os.nice, 19) if sys.platform == "linux" else None
            self._thread = ThreadPoolExecutor(1, "checkpoint", initializer=give_way)
        self._newest = self._thread.submit(after)


def writer_of(trainer: L.Trainer) -> CheckpointWriter:
    """The writer that the trainer was given."""
    writer = trainer.strategy.checkpoint_io
    assert isinstance(writer, CheckpointWriter)
    return writer


def _write(checkpoint: State, path: Path, *, same_as: Path | None = None) -> None:
    """Write a checkpoint, or give a file that holds it another name."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            with suppress(OSError):  # of a disk without links
                if same_as:
                    part.hardlink_to(same_as)
            if not part.exists():
                with part.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                path.replace(path.with_name(PREVIOUS))  # should the disk spoil the new one later
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)  # or the disk may not know the file's name
        os.close(folder)
    except (OSError, RuntimeError) as error:  # the latter is how torch says that not all could be written
        cause = error if isinstance(error, OSError) else error.__context__
        why = reason(cause) if isinstance(cause, OSError) else str(error).splitlines()[0]
        raise UserError(f"{path}: the checkpoint can't be written ({why}); those before it are whole") from error


# ------------------------------------------------------------ finding one to resume from


class Found(NamedTuple):
    """A checkpoint that is whole."""

    path: Path
    step: int
    content: Mapping[str, Any]  # its tensors are on the disk until they are used


class DamagedError(UserError):
    """A file isn't whole."""


def newest_checkpoint(folder: Path) -> tuple[Found | None, list[Path]]:
    """The checkpoint of the latest step in a folder that is whole, if there is one, and those that are damaged.

    All of it is compared with its checksums, which torch doesn't do. A warning names each one that is passed over.
    """
    damaged: list[Path] = []

    def passing_over(read: Callable[[Path], T], paths: Iterable[Path]) -> Iterator[T]:
        for path in paths:
            try:
                yield read(path)
            except UserError as error:
                damaged.extend([path] if isinstance(error, DamagedError) else [])
                _warn(f"passed over: {error}")

    def require_checksums(path: Path) -> Path:
        with _as_damage(path), zipfile.ZipFile(path) as archive:
            if part := archive.testzip():
                raise zipfile.BadZipFile(f"in {part}")
        return path

    paths = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.name != LAST)  # the last before its equals
    readable = {found.path: found for found in passing_over(read_checkpoint, paths)}
    by_step = sorted(readable, key=lambda path: readable[path].step, reverse=True)
    whole = next(passing_over(require_checksums, by_step), None)
    return readable[whole] if whole else None, damaged


def read_checkpoint(path: Path) -> Found:
    """A checkpoint as far as it can be told without reading all of it.

    Raises:
        UserError: it isn't one of a training, or damaged.
    """
    with _as_damage(path):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(content, dict) or not content.keys() >= KEYS:
        raise UserError(f"{path}: no checkpoint of a training of this project")
    if not content["is_between_steps"]:
        raise UserError(f"{path}: saved within a step (trainer.val_check_interval counts micro-batches)")
    return Found(path, content["global_step"], content)


@contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, UnpicklingError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DamagedError(f"{path}: damaged, or no checkpoint ({reason(error)[:100]})") from error
