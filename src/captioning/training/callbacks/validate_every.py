"""Validation by optimizer steps."""

import sys
from typing import Any

import lightning as L

from captioning.errors import UserError


class ValidateEvery(L.Callback):
    """Validates after every so many optimizer steps, and in any case after the last: no run ends unjudged.

    Lightning's ``val_check_interval`` counts micro-batches, and an epoch's last accumulation window may be short, so
    no interval of micro-batches is the same as one of optimizer steps.

    Args:
        steps: how many; None leaves it to Lightning (the end of every epoch, by default), but for the last step.
    """

    def __init__(self, steps: int | None) -> None:
        if steps is not None and steps < 1:
            raise UserError(
                f"val_every_n_steps must be at least 1, got {steps}; null validates at the end of each epoch"
            )
        self.steps = steps
        self._validated_at = 0

    def state_dict(self) -> dict[str, int]:
        return {"validated_at": self._validated_at}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._validated_at = state_dict["validated_at"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated_at = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        is_last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        is_end = step == trainer.max_steps or (is_last_epoch and trainer.is_last_batch)
        due = trainer.enable_validation and (is_end or (self.steps is not None and step % self.steps == 0))
        # Lightning asks after this hook whether the number of micro-batches is a multiple of this one.
        if due and step > self._validated_at:
            trainer.val_check_batch = 1
            if is_end:
                trainer.check_val_every_n_epoch = None  # or an epoch that isn't due would go unjudged
        elif self.steps is not None:
            trainer.val_check_batch = sys.maxsize
