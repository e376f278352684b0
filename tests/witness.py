"""A callback that tests put into a run: what each of its processes had in the end."""

import hashlib
import json
import os
from pathlib import Path

import lightning as L


class Witness(L.Callback):
    """Writes ``rank0.json`` and so on.

    Args:
        dirpath: where to.
    """

    def __init__(self, dirpath: str) -> None:
        self.dirpath = dirpath

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        digest = hashlib.sha256()
        for parameter in pl_module.parameters():
            digest.update(parameter.detach().cpu().numpy().tobytes())
        seen = {
            "weights": digest.hexdigest(),
            "lr": pl_module.hparams["lr"],
            "step": trainer.global_step,
            "processes": trainer.world_size,
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
        Path(self.dirpath, f"rank{trainer.global_rank}.json").write_text(json.dumps(seen))
