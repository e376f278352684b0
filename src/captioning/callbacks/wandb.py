"""The wandb tracker, which never asks a question."""

import logging
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

_say = rank_zero_only(logging.getLogger(__name__).info)


def wandb_logger(*, project: str, save_dir: str, offline: bool | None = None, **settings: Any) -> WandbLogger:
    """A logger that is online where a wandb login is at hand, and offline otherwise.

    Args:
        project: wandb project.
        save_dir: folder of the tracker's own files.
        offline: settles it; by default ``WANDB_MODE`` does, and where that isn't set, whether there is a login.
        settings: further arguments of Lightning's ``WandbLogger`` and ``wandb.init``: ``name``, ``group``, ``tags``, …
    """
    if offline is None:
        mode = os.environ.get("WANDB_MODE") or ("online" if _is_logged_in() else "offline")
    else:
        mode = "offline" if offline else "online"
    if mode == "offline":
        folder = Path(save_dir) / "wandb"
        _say(
            "wandb: offline (online needs `wandb login` or WANDB_API_KEY). Look at the run with "
            f"`wandb leet {folder}`, send it with `wandb sync {folder}/offline-run-*`"
        )
    # As `mode`, because Lightning's own `offline` sets an environment variable that a loaded wandb no longer reads.
    return WandbLogger(project=project, save_dir=save_dir, mode=mode, **settings)


def _is_logged_in() -> bool:
    import wandb

    return bool(wandb.login(prompt=False))
