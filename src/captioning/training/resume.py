"""Resuming a run: in its folder, from its newest whole checkpoint, with settings that may have changed."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_only

from captioning.errors import UserError
from captioning.runs.run_folder import RunFolder
from captioning.training.checkpoints import Found, newest_checkpoint, read_checkpoint
from captioning.training.distributed.environment import is_rank_zero

if TYPE_CHECKING:
    from captioning.training.datamodule import CaptionDataModule

_log = rank_zero_only(logging.getLogger(__name__).info)

AUTO = "auto"  # resume if there is a checkpoint, else begin
RESUME_CKPT_ENV = "CAPTIONING_RESUME_FROM"  # the checkpoint, for the processes that the first one starts
# The weights wouldn't fit, or images would come twice and others not at all.
IMMUTABLE_KEYS = (
    *("model.checkpoint", "model.architecture", "model.freeze_vision"),
    *("model.lora_rank", "model.lora_alpha", "model.lora_dropout", "model.lora_towers"),
    *("seed", "data.seed", "data.processor", "data.image_size", "data.fit"),
    *("data.streaming", "data.stream_head", "callbacks.ema", "find_lr", "find_batch_size"),
)
IGNORED_KEYS = ("resume", "output_dir")  # say where and how a run is started, and not what it is


@dataclass(frozen=True)
class ResumePoint:
    """What a run is resumed from."""

    checkpoint: Found  # the newest whole one
    damaged: Sequence[Path]  # checkpoints that were passed over
    changes: Mapping[str, tuple[object, object]]  # settings by dotted key, each with its value before and now

    def announce(self) -> None:
        """Done by the first process before the others start: they need not look for the checkpoint again."""
        os.environ[RESUME_CKPT_ENV] = str(self.checkpoint.path)
        quarantine(self.damaged)


def load_resume_point(run: RunFolder, config: Mapping[str, object]) -> ResumePoint | None:
    """What to resume a run from; None where it begins. ``config`` is as composed, interpolations unresolved.

    Raises:
        UserError: no checkpoint is whole, or a setting was changed that can't change under way.
    """
    if config["resume"] is None:
        return None
    found: Found | None
    damaged: list[Path] = []
    if not is_rank_zero() and RESUME_CKPT_ENV in os.environ:  # by the first process, which has read all of it
        found = read_checkpoint(Path(os.environ[RESUME_CKPT_ENV]))
    else:
        found, damaged = newest_checkpoint(run.path / "checkpoints")
    if found is None:
        if damaged and config["resume"] != AUTO:
            raise UserError(f"resume={config['resume']}: no checkpoint there is whole; begin again in another folder")
        quarantine(damaged)
        _log(f"{run.path}: no checkpoint to resume from yet; beginning again")
        return None
    changes = {key: pair for key, pair in _differences(run.config or {}, config) if not key.startswith(IGNORED_KEYS)}
    for key, (before, now) in changes.items():
        if any(key == fixed or key.startswith(f"{fixed}.") for fixed in IMMUTABLE_KEYS):
            raise UserError(
                f"{key}={_shown(now)}: the run was begun with {_shown(before)}, which can't change under way; leave it "
                "out, or begin another run"
            )
    for key, (before, now) in changes.items():
        _log(f"resume: {key} is {_shown(now)}, was {_shown(before)}")
    return ResumePoint(found, damaged, changes)


def quarantine(damaged: Sequence[Path]) -> None:
    """Give damaged checkpoints another name: theirs will be needed when training comes to their steps."""
    for path in damaged if is_rank_zero() else ():
        path.replace(path.with_name(path.name + ".damaged"))


def require_same_data(run: RunFolder, datamodule: "CaptionDataModule") -> None:
    """Raise UserError unless images, captions and splits are those that the run was begun with."""
    before = (run.environment or {}).get("data_fingerprint")
    if before != datamodule.fingerprint:
        raise UserError(
            f"resume={run.path}: the data have changed since the run began (their fingerprint was {before} and "
            f"is {datamodule.fingerprint}); begin another run"
        )
    if run.splits != datamodule.split_ids:
        raise UserError(f"resume={run.path}: the split isn't that of its splits.json any more; begin another run")


def _differences(before: object, now: object, prefix: str = "") -> Iterator[tuple[str, tuple[object, object]]]:
    """Values that differ, by dotted key; one that is missing is None."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), f"{prefix}{key}.")
    elif before != now:
        yield prefix[:-1], (before, now)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
