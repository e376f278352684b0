"""How much memory there is, and how much was taken."""

import sys
from pathlib import Path

import torch


def peak_memory(device: torch.device) -> int | None:
    """The most bytes at once, of tensors on a GPU, of this process on a CPU; None where the system doesn't tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage, whose most begins with what the process had that started this one.
    return of_system("/proc/self/status", "VmHWM") if sys.platform.startswith("linux") else None


def of_system(file: str, name: str) -> int:
    """Bytes, by a line such as ``VmData:  428 kB``."""
    lines = Path(file).read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
