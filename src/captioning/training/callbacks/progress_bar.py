"""The bar in the terminal."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from captioning.training.callbacks import callbacks_of_type
from captioning.training.callbacks.throughput import Throughput


class ProgressBar(RichProgressBar):
    """Lightning's, with the throughput in few words."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        for throughput in callbacks_of_type(trainer, Throughput):
            metrics |= in_words(throughput.rates())
        return metrics


def in_words(rates: dict[str, float]) -> dict[str, str]:
    """What a glance tells of :meth:`Throughput.rates`."""
    forms = {
        "train/images_per_second": ("images/s", "{:.3g}"),
        "train/data_wait_share": ("waiting", "{:.0%}"),
        "train/memory_gb": ("memory", "{:.1f} GB"),
        "train/mfu": ("MFU", "{:.0%}"),
    }
    return {label: form.format(rates[name]) for name, (label, form) in forms.items() if name in rates}
