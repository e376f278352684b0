"""The wandb tracker, which never asks a question."""

import logging
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

_say = rank_zero_only(logging.getLogger(__name__).info)


def wandb_logger(*, project: str, save_dir: str, **settings: Any) -> WandbLogger:
    """A logger that is online where a wandb login is at hand, and offline otherwise.

    Args:
        project: wandb project.
        save_dir: folder of the tracker's own files.
        settings: further arguments of Lightning's ``WandbLogger`` and ``wandb.init``: ``name``, ``group``, ``tags``, …
    """
    offline = settings.pop("offline", None)
    if offline is None:
        offline = not _is_logged_in()
    if offline:
        # LEET and `wandb sync` want the folder; the run's own folder below it gets its name when it starts.
        folder = Path(save_dir) / "wandb"
        _say(
            "wandb: offline, as nobody is logged in (`wandb login`, or WANDB_API_KEY). Look at the run with "
            f"`wandb leet {folder}`, send it with `wandb sync {folder}/offline-run-*`"
        )
    return WandbLogger(project=project, save_dir=save_dir, offline=offline, **settings)


def _is_logged_in() -> bool:
    import wandb

    if os.environ.get("WANDB_MODE", "online") != "online":  # what the user asked for stands
        return False
    return bool(wandb.login(prompt=False))
