"""An end of training that can be gone on from."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from captioning.training.callbacks import callbacks_of_type
from captioning.training.checkpoints import CheckpointWriter
from captioning.training.loop_state import is_between_steps
from captioning.training.module import CaptionModule
from captioning.training.signals import Interrupted, SignalHandler


class GracefulShutdown(L.Callback):
    """Ends training between two optimizer steps, at the same one on all processes, when one is told to stop.

    So it does when ``trainer.max_time`` is over, and where checkpoints can't be written any more. A validation isn't
    waited for: it is made up for when the run is resumed.

    Args:
        interruption: listens for signals.
        writer: of checkpoints.
    """

    def __init__(self, interruption: SignalHandler, writer: CheckpointWriter) -> None:
        self.interruption = interruption
        self.writer = writer

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._defer()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._defer()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.interruption.listen()
        # It may have come after the last step, too late for training to end for it.
        if trainer.strategy.reduce_boolean_decision(bool(self.interruption.noted), all=False):
            raise Interrupted(self.interruption.noted)

    def _defer(self) -> None:
        # Again, because Lightning listens by now: its own handler starts a collective wherever the process is.
        self.interruption.listen()
        self.interruption.is_deferred = True

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        assert isinstance(pl_module, CaptionModule)
        pl_module.local_flags["stop"] = bool(self.interruption.noted)
        pl_module.local_flags["write_failed"] = self.writer.error is not None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, CaptionModule)
        if not is_between_steps(trainer):
            if any(timer.time_remaining() is not None for timer in callbacks_of_type(trainer, Timer)):
                trainer.should_stop = False  # its time is over; it will say so again at the end of the step
        elif pl_module.synced_flags["write_failed"]:
            raise self.writer.error or SystemExit(1)  # of the process that can't write, which says why
        elif pl_module.synced_flags["stop"]:
            raise Interrupted(self.interruption.noted)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if trainer.strategy.reduce_boolean_decision(bool(self.interruption.noted), all=False):
            raise Interrupted(self.interruption.noted)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.interruption.is_deferred = False
