"""Resuming at the very next sample, with the very random choices that an uninterrupted training would have made."""

import random
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from captioning.training.callbacks import callbacks_of_type
from captioning.training.loop_state import count_steps, go_to, is_between_steps, settle, validate, validation_is_due


class ExactResume(L.Callback):
    """Makes any checkpoint saved between two optimizer steps one from which training goes on exactly.

    Random numbers of a step, such as those of dropout, are drawn from generators seeded anew at each batch, by the
    run's seed, the step and the process. So there is no state of generators to be restored, nothing that is drawn
    between two steps matters, and no two processes drop the same units out.

    The rest is the order of samples, which :class:`captioning.CaptionDataModule` keeps itself, and a validation that
    was due when the checkpoint was saved, or broken off: it is made up for. What callbacks have seen comes from the
    checkpoint, and their settings don't.
    """

    def __init__(self) -> None:
        self.seed = 0
        self._is_validating = self._validation_is_due = False
        self._validated_at = 0
        self._surplus: list[Path] = []  # best checkpoints that are more than are wanted now

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seed = self.seed or torch.initial_seed()

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "validated_at": self._validated_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed, self._validated_at = state_dict["seed"], state_dict["validated_at"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.training or trainer.validating:
            is_due = trainer.training and trainer.global_step > self._validated_at and validation_is_due(trainer)
            checkpoint["validation_is_due"] = self._is_validating or is_due
            checkpoint["is_between_steps"] = is_between_steps(trainer)
            settle(checkpoint["loops"], trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._validation_is_due = checkpoint.get("validation_is_due", False)
        states = checkpoint["callbacks"]
        for best in callbacks_of_type(trainer, ModelCheckpoint):
            if best.dirpath and (state := states.get(best.state_key)):
                self._surplus += _move(state, Path(best.dirpath), best.mode, most=best.save_top_k)
        for stopping in callbacks_of_type(trainer, EarlyStopping):
            if state := states.get(stopping.state_key):
                state["patience"] = stopping.patience

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.fit_loop.is_resuming:
            return
        for path in self._surplus if trainer.is_global_zero else ():  # by now all processes have read theirs
            trainer.strategy.remove_checkpoint(path)
        trainer.ckpt_path = None  # or Lightning would never remove this one when a better one takes its place
        batches_done = getattr(getattr(trainer, "datamodule", None), "batches_done", None)
        if batches_done is not None:
            go_to(trainer, *batches_done())
        count_steps(trainer)
        if self._validation_is_due:
            validate(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        count_steps(trainer)
        self._seed_by(trainer, batch_idx)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        count_steps(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._is_validating = True
        self._seed_by(trainer, "validation")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._is_validating = False
        self._validated_at = trainer.global_step

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seed_by(trainer, "test")

    def _seed_by(self, trainer: L.Trainer, what: object) -> None:
        place = f"{self.seed}/{trainer.global_step}/{what}/{trainer.global_rank}"
        seed = int.from_bytes(blake2b(place.encode(), digest_size=8).digest(), "big") >> 1
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)


def _move(state: dict[str, Any], folder: Path, mode: str, *, most: int) -> list[Path]:
    """Let the best checkpoints be where the run folder is now, if they are there; Lightning would forget them.

    Returns those that are more than ``most`` (-1: all are kept), which Lightning wouldn't remove any more.
    """
    moved = {str(folder / Path(path).name): score for path, score in state["best_k_models"].items()}
    kept = {path: score for path, score in moved.items() if Path(path).is_file()}
    best_first = sorted(kept, key=kept.__getitem__, reverse=mode == "max")
    surplus = [] if most < 0 else best_first[most:]
    best_first = best_first[: len(best_first) - len(surplus)]
    kept = {path: kept[path] for path in best_first}
    state.update(dirpath=str(folder), best_k_models=kept, last_model_path="")
    state["best_model_path"], state["best_model_score"] = (best_first[0], kept[best_first[0]]) if kept else ("", None)
    if kept:
        state["kth_best_model_path"], state["kth_value"] = best_first[-1], kept[best_first[-1]]
    return [Path(path) for path in surplus]
