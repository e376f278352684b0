"""How fast training goes, validation left out."""

import time
from typing import Any

import lightning as L

from captioning.data.batches import Batch


class Throughput(L.Callback):
    """Logs ``train/pictures_per_second``, ``train/seconds_per_step`` and ``train/data_wait_share`` over the run so far.

    Pictures are counted over all processes, a step is an optimizer step, and the share is of the time that this process
    waited for its next batch. Time in validation and checkpointing isn't counted, nor is the first batch of an epoch,
    which waits for the workers to start.
    """

    def __init__(self) -> None:
        self.seconds = self.waited = 0.0
        self.pictures = self.steps = 0
        self._mark: float | None = None
        self._steps_before = 0

    def state_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("seconds", "waited", "pictures", "steps")}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._steps_before = trainer.global_step
        if self._mark is not None:
            self.waited += time.perf_counter() - self._mark

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if self._mark is not None:
            self.seconds += now - self._mark
            self.pictures += len(batch["id"]) * trainer.world_size
            self.steps += trainer.global_step - self._steps_before
        self._mark = now
        pl_module.log_dict(self.rates())

    def rates(self) -> dict[str, float]:
        """The three numbers so far; none before the second batch."""
        if not self.steps:
            return {}
        return {
            "train/pictures_per_second": self.pictures / self.seconds,
            "train/seconds_per_step": self.seconds / self.steps,
            "train/data_wait_share": self.waited / self.seconds,
        }
