"""Going on with a run: in its folder, with its settings, from its newest checkpoint that is whole."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from captioning.config.compose import absolute_paths, require_run_folder, start_of
from captioning.errors import UserError
from captioning.runs import run_folder
from captioning.training.checkpoints import Found, newest_checkpoint, read_checkpoint
from captioning.training.datamodule import CaptionDataModule
from captioning.training.distributed.environment import is_restart, rank
from captioning.training.tuning import restore_tuned

_say = rank_zero_only(logging.getLogger(__name__).info)

AUTO = "auto"
CHOSEN = "CAPTIONING_RESUME_FROM"  # the checkpoint, for the processes that the first one starts
# What a training can't change under way: its weights wouldn't fit, or it would see images twice and others not.
IMMUTABLE_KEYS = (
    *(
        "model.checkpoint",
        "model.architecture",
        "model.freeze_vision",
        "model.lora_rank",
        "model.lora_alpha",
        "model.lora_dropout",
        "model.lora_towers",
        "seed",
        "data.seed",
        "data.processor",
        "data.image_size",
        "data.fit",
    ),
    *("data.streaming", "data.stream_head", "callbacks.ema"),
    *("find_lr", "find_batch_size"),
)
# What says where something is, or follows from where the run is started.
IGNORED_KEYS = ("resume", "output_dir", "hydra")


@dataclass(frozen=True)
class ResumePoint:
    """What a run goes on from.

    ``changes`` are settings by dotted key, each with its value before and now.
    """

    folder: Path
    found: Found
    damaged: Sequence[Path]  # checkpoints that were passed over
    changes: Mapping[str, tuple[Any, Any]]
    overrides: Sequence[str]  # all that the run was ever given

    @property
    def is_finished(self) -> bool:
        """Whether the run was tested, and is asked for nothing else now."""
        return not self.changes and (self.folder / "metrics.json").is_file()

    def begin(self) -> None:
        """What the first process does before the others start: they need not look for the checkpoint again."""
        os.environ[CHOSEN] = str(self.found.path)
        _set_aside(self.damaged)


def load_resume_point(cfg: Any) -> tuple[Any, ResumePoint | None]:
    """The settings to train with, and what to go on from; None where the run begins.

    Args:
        cfg: as composed from this command line.

    Raises:
        UserError: there is no such run, all its checkpoints are damaged, or the settings contradict it.
    """
    resume = cfg.resume or (AUTO if is_restart() else None)
    if resume is None:
        return cfg, None
    folder = Path(cfg.output_dir)
    saved = run_folder.read_mapping(folder / ".hydra" / "config.yaml")
    if resume != AUTO:
        _require_run(Path(resume), folder, saved)
    if saved is None:  # with auto
        return cfg, None
    saved["data"] |= absolute_paths(start_of(folder), saved["data"])
    found, damaged = _find(folder)
    settings: Any = OmegaConf.to_container(cfg)
    if resume != AUTO:
        settings = _with_changes(folder, saved, settings)
    else:
        restore_tuned(settings, saved)
    settings["data"] |= absolute_paths(str(Path.cwd()), settings["data"])  # of what is given now
    if found is None:
        if damaged and resume != AUTO:
            raise UserError(f"resume={resume}: no checkpoint there is whole; begin again in another folder")
        _set_aside(damaged)
        _say(f"{folder}: no checkpoint to go on from yet; beginning again")
        return OmegaConf.create(settings), None
    changes = {key: pair for key, pair in _differences(saved, settings) if not key.startswith(IGNORED_KEYS)}
    _require_possible(changes)
    return OmegaConf.create(settings), ResumePoint(folder, found, damaged, changes, overrides_given())


def overrides_given() -> list[str]:
    """What the command line gives, but for ``resume``; of a run that goes on, all that it was ever given."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return [override for override in overrides if override.lstrip("+").partition("=")[0] != "resume"]


def _set_aside(damaged: Sequence[Path]) -> None:
    """Give damaged checkpoints another name: theirs will be needed when training comes to their steps."""
    for path in damaged if rank() == 0 else ():
        path.replace(path.with_name(path.name + ".damaged"))


def _find(folder: Path) -> tuple[Found | None, list[Path]]:
    if rank() and CHOSEN in os.environ:  # by the first process, which has read all of it
        return read_checkpoint(Path(os.environ[CHOSEN])), []
    return newest_checkpoint(folder / "checkpoints")


def _require_run(resume: Path, folder: Path, saved: Mapping[str, Any] | None) -> None:
    require_run_folder(str(resume))
    if folder.resolve() != resume.resolve():
        raise UserError(f"resume={resume} and hydra.run.dir={folder}: a run is resumed in its own folder")
    if saved is None:
        raise UserError(f"resume={resume}: no run was begun there (it has no .hydra/config.yaml)")


def _with_changes(folder: Path, saved: dict[str, Any], composed: Any) -> Any:
    """The run's settings as they are written down, with what this command line changes of them.

    What it changes is found by composing what was given before once more: so it may name groups too, and what was
    changed in conf/ meanwhile doesn't get into a run that is under way.
    """
    earlier = run_folder.read_list(folder / ".hydra" / "overrides.yaml") or []
    settings: Any = _lay_over(saved, OmegaConf.to_container(compose("config", earlier)), composed)
    for override in overrides_given():
        if override not in earlier:  # a value that is given now holds, even where it is conf/'s own
            _take_over(settings, composed, override.lstrip("+").partition("=")[0].split("."))
    return settings


def _take_over(settings: Any, composed: Any, keys: Sequence[str]) -> None:
    """Take a value, not a group, from ``composed``."""
    *parents, name = keys
    for parent in parents:
        settings, composed = settings.get(parent), composed.get(parent)
        if not isinstance(settings, dict) or not isinstance(composed, dict):
            return
    if name in composed and not isinstance(composed[name], dict) and not isinstance(settings.get(name), dict):
        settings[name] = composed[name]


def _lay_over(saved: Any, before: Any, after: Any) -> Any:
    if before == after:
        return saved
    if not all(isinstance(node, dict) for node in (saved, before, after)):
        return after
    gone_from_conf = {key: value for key, value in saved.items() if key not in before and key not in after}
    return gone_from_conf | {
        key: _lay_over(saved.get(key, value), before.get(key), value) for key, value in after.items()
    }


def _differences(before: Any, now: Any, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Values that differ, by dotted key; one that is missing is None."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _differences(before.get(key), now.get(key), f"{prefix}{key}.")
    elif before != now:
        yield prefix[:-1], (before, now)


def _require_possible(changes: Mapping[str, tuple[Any, Any]]) -> None:
    for key, (before, now) in changes.items():
        if any(key == fixed or key.startswith(f"{fixed}.") for fixed in IMMUTABLE_KEYS):
            raise UserError(
                f"{key}={_shown(now)}: the run was begun with {_shown(before)}, which can't change under way; leave it "
                "out, or begin another run"
            )
    for key, (before, now) in changes.items():
        _say(f"resume: {key} is {_shown(now)}, was {_shown(before)}")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def require_same_data(folder: Path, datamodule: CaptionDataModule) -> None:
    """Make sure that the images, their captions and their splits are those that the run was begun with.

    Raises:
        UserError: they aren't.
    """
    environment = run_folder.read_mapping(folder / "environment.json") or {}
    if environment.get("data_fingerprint") != datamodule.fingerprint:
        raise UserError(
            f"resume={folder}: the data have changed since the run began (their fingerprint was "
            f"{environment.get('data_fingerprint')} and is {datamodule.fingerprint}); begin another run"
        )
    if run_folder.read_mapping(folder / "splits.json") != datamodule.split_ids:
        raise UserError(f"resume={folder}: the split isn't that of its splits.json any more; begin another run")
