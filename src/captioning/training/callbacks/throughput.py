"""How fast training goes, validation left out."""

import time
import warnings
from typing import TYPE_CHECKING, cast

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops

from captioning.data.dataset import Batch
from captioning.models.flops import training_flops
from captioning.training.memory import peak_memory

if TYPE_CHECKING:
    from captioning.training.module import CaptionModule

COUNTED = ("seconds", "waited", "images", "steps", "flops")


class Throughput(L.Callback):
    """Logs how fast the run has been so far, and what it needs.

    - ``train/images_per_second``: over all processes.
    - ``train/seconds_per_step``: of an optimizer step.
    - ``train/data_wait_share``: share of the time in which this process waited for its next batch.
    - ``train/memory_gb``: peak memory, of tensors on a GPU, of the process on a CPU.
    - ``train/mfu``: model FLOPs utilization, by :func:`captioning.models.flops.training_flops`; where the peak of
      the device is known.

    Time in validation and checkpointing isn't counted, nor is an epoch's first batch, which waits for workers to start.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        self.peak_flops = peak_flops
        self.seconds = self.waited = self.flops = 0.0
        self.images = self.steps = 0
        self._memory: int | None = None
        self._mark: float | None = None
        self._steps_before = 0

    def state_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in COUNTED}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        for name in COUNTED:
            earlier = {"images": "pictures"}.get(name, name)  # its name in checkpoints before 0.2
            setattr(self, name, state_dict.get(name, state_dict.get(earlier)))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.peak_flops is None:
            dtypes = {"bf16": torch.bfloat16, "16": torch.float16}
            dtype = dtypes.get(str(trainer.precision).partition("-")[0], torch.float32)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about devices that it doesn't know
                self.peak_flops = get_available_flops(trainer.strategy.root_device, dtype)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = None

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self._steps_before = trainer.global_step
        if self._mark is not None:
            self.waited += time.perf_counter() - self._mark

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        pl_module = cast("CaptionModule", pl_module)
        now = time.perf_counter()
        if self._mark is not None:
            images, tokens = batch["input_ids"].shape
            self.seconds += now - self._mark
            self.images += images * trainer.world_size
            self.steps += trainer.global_step - self._steps_before
            self.flops += training_flops(pl_module.network, images=images, tokens=tokens)
        self._mark = now
        self._memory = peak_memory(pl_module.device)
        pl_module.log_dict(self.rates())

    def rates(self) -> dict[str, float]:
        """What is logged, so far; nothing before the second batch."""
        if not self.steps:
            return {}
        rates = {
            "train/images_per_second": self.images / self.seconds,
            "train/seconds_per_step": self.seconds / self.steps,
            "train/data_wait_share": self.waited / self.seconds,
        }
        if self._memory:
            rates["train/memory_gb"] = self._memory / 1e9
        if self.peak_flops:
            rates["train/mfu"] = self.flops / self.seconds / self.peak_flops
        return rates
