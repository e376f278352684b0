"""The newest state of a training, to resume from."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import lightning as L
from annotated_types import Ge, Gt
from lightning.pytorch.callbacks import Checkpoint

from captioning.errors import check_arguments
from captioning.training.checkpoints import LAST, writer_of
from captioning.training.loop_state import is_between_steps, log_step, validation_is_due
from captioning.training.signals import Interrupted

if TYPE_CHECKING:
    from captioning.training.module import CaptionModule


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, and as ``previous.ckpt`` the one before it.

    It is saved after each validation, every N minutes or optimizer steps, and when the run is interrupted; always
    between two optimizer steps, and with the curves on the disk up to it.
    """

    def __init__(
        self,
        *,
        every_n_minutes: Annotated[float, Gt(0)] | None = 10.0,
        every_n_steps: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        check_arguments(type(self).__init__, locals(), section="callbacks.last")
        self.every_n_seconds = every_n_minutes and every_n_minutes * 60
        self.every_n_steps = every_n_steps
        self._saved_at = 0.0  # seconds of the clock
        self._saved_step: int | None = None
        self._is_owed = self._has_begun = False  # a validation came within a step; training has begun

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at, self._has_begun = time.monotonic(), True

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        is_turn = self.every_n_seconds and time.monotonic() > self._saved_at + self.every_n_seconds
        cast("CaptionModule", pl_module).local_flags["save"] = bool(is_turn)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if not is_between_steps(trainer):
            return
        is_turn = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        is_turn = is_turn or self._is_owed or cast("CaptionModule", pl_module).synced_flags["save"]
        if is_turn and not validation_is_due(trainer):  # else it is saved after that, with its numbers
            log_step(trainer)
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._is_owed = not is_between_steps(trainer)
            if not self._is_owed:
                self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.enable_validation:
            self._save(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        # Not in a test, which is of the best weights, and not before all has been restored.
        is_training = self._has_begun and (trainer.training or trainer.validating)
        if not isinstance(exception, Interrupted) or not is_training:
            return
        if trainer.training:
            log_step(trainer)
        if trainer.validating or self._saved_step != trainer.global_step:
            self._save(trainer)
        # Whoever started the processes may end them all when the first one of them ends.
        writer = writer_of(trainer)
        writer.wait()
        trainer.strategy.barrier()
        if writer.error:
            raise writer.error from exception

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # which Lightning sets elsewhere
            return
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(Path(trainer.default_root_dir, "checkpoints", LAST))
        self._saved_at, self._saved_step, self._is_owed = time.monotonic(), trainer.global_step, False
