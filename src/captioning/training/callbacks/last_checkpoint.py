"""The newest state of a training, to go on from."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from captioning.errors import UserError
from captioning.training.checkpoints import LAST, writer_of
from captioning.training.loop_state import is_between_steps, log_step, validation_is_due
from captioning.training.module import CaptionModule
from captioning.training.signals import Interrupted


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, and as ``previous.ckpt`` the one before it.

    It is saved after each validation, every so many minutes or steps, and when the run is told to stop; always between
    two optimizer steps, and with the curves on the disk up to it.

    Args:
        every_n_minutes: at least so often; null: only after validations, and by steps.
        every_n_steps: also after every so many optimizer steps.
    """

    def __init__(self, *, every_n_minutes: float | None = 10.0, every_n_steps: int | None = None) -> None:
        for name, value in (("every_n_minutes", every_n_minutes), ("every_n_steps", every_n_steps)):
            if value is not None and value <= 0:
                raise UserError(f"callbacks.last.{name} must be above 0, got {value}; null: never for this reason")
        self.every_n_seconds = every_n_minutes and every_n_minutes * 60
        self.every_n_steps = every_n_steps
        self._saved_at = 0.0  # seconds of the clock
        self._saved_step: int | None = None
        self._is_owed = self._has_begun = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at, self._has_begun = time.monotonic(), True

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        assert isinstance(pl_module, CaptionModule)
        if self.every_n_seconds:
            pl_module.local_flags["save"] = time.monotonic() > self._saved_at + self.every_n_seconds

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, CaptionModule)
        if not is_between_steps(trainer):
            return
        is_turn = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        # Where a validation comes next, what it finds is saved too.
        if (is_turn or self._is_owed or pl_module.synced_flags["save"]) and not validation_is_due(trainer):
            log_step(trainer)
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if is_between_steps(trainer):
            self._save(trainer)
        else:
            self._is_owed = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.enable_validation:
            self._save(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        # Not in a test, which is of the best weights, and not before all has been restored.
        is_under_way = self._has_begun and (trainer.training or trainer.validating)
        if not isinstance(exception, Interrupted) or not is_under_way:
            return
        if trainer.training:
            log_step(trainer)
        if trainer.validating or self._saved_step != trainer.global_step:
            self._save(trainer)
        # Whoever started the processes may end them all when the first one of them ends.
        writer_of(trainer).wait()
        trainer.strategy.barrier()

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # which Lightning sets elsewhere
            return
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / LAST)
        self._saved_at, self._saved_step, self._is_owed = time.monotonic(), trainer.global_step, False
