"""GPUs that jobs running side by side share, by ``CUDA_VISIBLE_DEVICES``."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from captioning.errors import UserError

ON_GPUS = ("auto", "gpu", "cuda")


def visible_gpus() -> list[str]:
    """The GPUs to share: those in this process's ``CUDA_VISIBLE_DEVICES``, else all of the machine."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def gpus_per_job(accelerator: str, devices: object, *, gpus: int, n_jobs: int) -> int:
    """How many of ``gpus`` GPUs a job gets; 0 if it trains on something else or names its GPUs itself."""
    if not gpus or accelerator not in ON_GPUS:
        return 0
    if devices in ("auto", -1, "-1", None):
        return max(gpus // n_jobs, 1)
    if not str(devices).isdecimal():
        return 0
    if int(str(devices)) > gpus:
        raise UserError(f"trainer.devices={devices}: there are {gpus} GPUs; lower it, or run on a larger machine")
    return int(str(devices))


class GpuPool:
    """GPUs of which each job takes some for its time."""

    def __init__(self, names: list[str]) -> None:
        self._free = names
        self._changed = threading.Condition()

    @contextmanager
    def take(self, count: int) -> Iterator[list[str]]:
        """Wait until ``count`` GPUs are free; no other job gets them until the end of the context."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._free) >= count)
            taken, self._free = self._free[:count], self._free[count:]
        try:
            yield taken
        finally:
            with self._changed:
                self._free = sorted(self._free + taken)
                self._changed.notify_all()
