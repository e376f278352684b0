"""How much memory there is, how much was taken, and what becomes of it when it is free."""

import ctypes
import sys
from pathlib import Path

import torch


def peak_memory(device: torch.device) -> int | None:
    """The most bytes at once, of tensors on a GPU, of this process on a CPU; None where the system doesn't tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage, whose most begins with what the process had that started this one.
    return read_proc_status("/proc/self/status", "VmHWM") if sys.platform.startswith("linux") else None


def read_proc_status(file: str, name: str) -> int:
    """Bytes, by a line such as ``VmData:  428 kB``."""
    lines = Path(file).read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, for what it asks for next; where its C library is glibc.

    A training step asks for the same as the one before. By default glibc gives most of it back to the system, which
    clears it page by page before it hands it out again: on a CPU a tenth of a step, more in bf16.
    """
    if sys.platform.startswith("linux") and hasattr(library := ctypes.CDLL(None), "mallopt"):
        # M_MMAP_THRESHOLD: the largest that it takes. What is larger ends when it is freed, and it must: glibc doesn't
        # find the place of an aligned block again for the next one of its size, and so would grow without end.
        library.mallopt(-3, 2**25)
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: so much may be free at the end of the heap
