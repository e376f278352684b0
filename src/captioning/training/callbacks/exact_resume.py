"""Resuming at the very next sample, with the very random choices that an uninterrupted training would have made."""

import random
from hashlib import blake2b
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from captioning.training import loop_state
from captioning.training.callbacks import callbacks_of_type
from captioning.training.datamodule import CaptionDataModule
from captioning.training.loop_state import State


class ExactResume(L.Callback):
    """Makes any checkpoint saved between two optimizer steps one from which training resumes exactly.

    Random numbers of a step, such as those of dropout, come from generators seeded anew at each batch, by the run's
    seed, the step and the process: no state of generators has to be restored.

    :class:`captioning.CaptionDataModule` keeps the order of samples itself. A validation that was due or under way when
    the checkpoint was saved is made up for. A callback's counts come from the checkpoint, its settings don't.
    """

    def __init__(self) -> None:
        self.seed = 0
        self._is_validating = self._validation_is_due = False
        self._validated_at = 0
        self._surplus: list[Path] = []  # best checkpoints that are more than are to be kept now

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seed = self.seed or torch.initial_seed()

    def state_dict(self) -> State:
        return {"seed": self.seed, "validated_at": self._validated_at}

    def load_state_dict(self, state_dict: State) -> None:
        self.seed, self._validated_at = state_dict["seed"], state_dict["validated_at"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: State) -> None:
        if not (trainer.training or trainer.validating):
            return
        is_validated = trainer.validating or trainer.global_step <= self._validated_at
        is_due = not is_validated and loop_state.validation_is_due(trainer)
        checkpoint["validation_is_due"] = self._is_validating or is_due
        checkpoint["is_between_steps"] = loop_state.is_between_steps(trainer)
        loop_state.normalize(checkpoint["loops"], trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: State) -> None:
        self._validation_is_due = checkpoint.get("validation_is_due", False)
        states = checkpoint["callbacks"]
        for best in callbacks_of_type(trainer, ModelCheckpoint):
            if best.dirpath and (state := states.get(best.state_key)):
                folder, top_k = Path(best.dirpath), best.save_top_k
                self._surplus += loop_state.move_best(state, folder, best.mode, save_top_k=top_k)
        for stopping in callbacks_of_type(trainer, EarlyStopping):
            if state := states.get(stopping.state_key):
                state["patience"] = stopping.patience

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not loop_state.is_resuming(trainer):
            return
        for path in self._surplus if trainer.is_global_zero else ():  # by now all processes have read theirs
            trainer.strategy.remove_checkpoint(path)
        loop_state.forget_ckpt_path(trainer)
        datamodule = getattr(trainer, "datamodule", None)
        if isinstance(datamodule, CaptionDataModule):
            loop_state.set_position(trainer, *datamodule.batches_done())
        loop_state.count_steps(trainer)
        if self._validation_is_due:
            loop_state.validate(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        loop_state.count_steps(trainer)
        self._seed_by(trainer, batch_idx)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loop_state.count_steps(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._is_validating = True
        self._seed_by(trainer, "validation")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._is_validating = False
        self._validated_at = trainer.global_step

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seed_by(trainer, "test")

    def _seed_by(self, trainer: L.Trainer, what: object) -> None:
        drawn_at = f"{self.seed}/{trainer.global_step}/{what}/{trainer.global_rank}"
        seed = int.from_bytes(blake2b(drawn_at.encode(), digest_size=8).digest(), "big") >> 1
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
