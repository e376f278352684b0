"""Validation by optimizer steps."""

import lightning as L

from captioning.errors import UserError
from captioning.training.loop_state import State, set_validation_due


class ValidateEvery(L.Callback):
    """Validates every N optimizer steps, or where Lightning does if that is None, and in any case after the last.

    Lightning's ``val_check_interval`` counts micro-batches, and an epoch's last accumulation window may be short.
    """

    def __init__(self, steps: int | None) -> None:
        if steps is not None and steps < 1:
            raise UserError(f"val_every_n_steps must be at least 1, got {steps}; null validates after each epoch")
        self.steps = steps
        self._validated_at = 0

    def state_dict(self) -> State:
        return {"validated_at": self._validated_at}

    def load_state_dict(self, state_dict: State) -> None:
        self._validated_at = state_dict["validated_at"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated_at = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        step = trainer.global_step
        is_last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        is_end = step == trainer.max_steps or (is_last_epoch and trainer.is_last_batch)
        is_due = trainer.enable_validation and (is_end or (self.steps is not None and step % self.steps == 0))
        if is_due and step > self._validated_at:
            set_validation_due(trainer, True, is_end=is_end)
        elif self.steps is not None:
            set_validation_due(trainer, False)
