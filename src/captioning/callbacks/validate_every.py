"""Validation by optimizer steps."""

import sys
from typing import Any

import lightning as L

from captioning.errors import UserError


class ValidateEvery(L.Callback):
    """Validates after every so many optimizer steps, and after the last.

    Lightning's ``val_check_interval`` counts micro-batches, and an epoch's last accumulation window may be short, so
    no interval of micro-batches is the same as one of optimizer steps.
    """

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise UserError(
                f"val_every_n_steps must be at least 1, got {steps}; null validates at the end of each epoch"
            )
        self.steps = steps
        self._validated_at = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        is_last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        is_end = step == trainer.max_steps or (is_last_epoch and trainer.is_last_batch)
        due = step > self._validated_at and (step % self.steps == 0 or is_end)
        if due:
            self._validated_at = step
        # Lightning asks after this hook whether the number of micro-batches is a multiple of this one.
        trainer.val_check_batch = 1 if due else sys.maxsize
