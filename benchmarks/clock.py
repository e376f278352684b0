"""A callback that train.py takes by its name, `clock.Clock`, where this folder is in PYTHONPATH."""

import atexit
from pathlib import Path
from typing import Any

import lightning as L
from measuring import Record


class Clock(L.Callback):
    """Writes down what training, validations and test took, as JSON, when the first of the processes ends.

    Args:
        file: to write to.
    """

    def __init__(self, *, file: str) -> None:
        self.file = Path(file)
        self.record = Record()
        self._began = 0.0  # the validation, or the test
        self._images = 0  # since the last step, or since then
        self._step = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.record.device = trainer.strategy.root_device.type
        if trainer.is_global_zero and stage == "fit":
            atexit.register(self.record.write, self.file)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.record.begin_epoch()
        self._images = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch["id"]) * trainer.world_size
        if trainer.global_step > self._step:
            self.record.end_step(self._images)
            self._step, self._images = trainer.global_step, 0

    def on_validation_start(self, *_: Any) -> None:
        self.record.pause()
        self._began, self._images = self.record.now(), 0

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._images += len(batch["id"]) * trainer.world_size

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.record.evaluations.append((self.record.now() - self._began, self._images))
        self._images = 0

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end

    def on_test_end(self, *_: Any) -> None:
        self.record.captioning = (self.record.now() - self._began, self._images)
