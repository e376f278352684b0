"""An end of training from which it can be resumed."""

import logging
import signal
from typing import TYPE_CHECKING, cast

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.utilities import rank_zero_only

from captioning.errors import NotFiniteError
from captioning.runs.run_folder import RunFolder
from captioning.training.callbacks import callbacks_of_type
from captioning.training.checkpoints import CheckpointWriter
from captioning.training.loop_state import is_between_steps
from captioning.training.signals import Interrupted, SignalHandler

if TYPE_CHECKING:
    from captioning.training.module import CaptionModule

_log = rank_zero_only(logging.getLogger(__name__).info)


class GracefulShutdown(L.Callback):
    """Ends training between two optimizer steps, at the same one on all processes, when one of them gets a signal.

    So it does when ``trainer.max_time`` is over, and when checkpoints can't be written any more. A validation isn't
    waited for: it is made up for when the run is resumed.
    """

    def __init__(self, signals: SignalHandler, writer: CheckpointWriter) -> None:
        self.signals = signals
        self.writer = writer

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Again, because Lightning has installed its own by now, which start a collective wherever the process is.
        self.signals.install()
        self.signals.deferred = True

    on_train_start = on_sanity_check_start

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.install()
        self._stop_if_received(trainer)  # it may have come after the last step, too late for training to end for it

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        flags = cast("CaptionModule", pl_module).local_flags
        flags |= {"stop": bool(self.signals.received), "write_failed": self.writer.error is not None}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        flags = cast("CaptionModule", pl_module).synced_flags
        if not is_between_steps(trainer):
            if any(timer.time_remaining() is not None for timer in callbacks_of_type(trainer, Timer)):
                trainer.should_stop = False  # its time is over; it says so again at the end of the step
        elif flags["write_failed"]:
            raise self.writer.error or SystemExit(1)  # of the process that can't write, which says why
        elif flags["stop"]:
            raise Interrupted(self.signals.received, step=trainer.global_step)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._stop_if_received(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Have all checkpoints on the disk before the test, and say why training ended before its time."""
        self.writer.wait()
        if trainer.strategy.reduce_boolean_decision(self.writer.error is not None, all=False):
            raise self.writer.error or SystemExit(1)
        if any((timer.time_remaining() or 1) < 0 for timer in callbacks_of_type(trainer, Timer)):
            way_on = f"python train.py resume={trainer.default_root_dir} trainer.max_time=…"
            _log(f"trainer.max_time is over at step {trainer.global_step}; to resume: {way_on}")
        for stopping in callbacks_of_type(trainer, EarlyStopping):
            if why := " ".join((stopping.stopping_reason_message or "").split()):
                _log(f"stopped early at step {trainer.global_step}: {why}")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Interrupted) and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)  # as in a test, of which the others don't know yet
        if isinstance(exception, NotFiniteError):
            RunFolder(trainer.default_root_dir).write_json("not_finite.json", exception.record)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.signals.deferred = False

    def _stop_if_received(self, trainer: L.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(bool(self.signals.received), all=False):
            raise Interrupted(self.signals.received, step=trainer.global_step)
