"""Peak memory, and what becomes of freed memory."""

import ctypes
import sys
from pathlib import Path

import torch


def peak_memory(device: torch.device) -> int | None:
    """Peak bytes, of tensors on a GPU, of this process on a CPU; None where the system doesn't say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not sys.platform.startswith("linux"):
        return None
    # Not getrusage, whose peak begins with what the process had that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def keep_freed_memory() -> None:
    """Have glibc reuse freed memory, of which the system would clear each page: a tenth of a training step on a CPU."""
    if sys.platform.startswith("linux") and hasattr(library := ctypes.CDLL(None), "mallopt"):
        # M_MMAP_THRESHOLD: the largest that it takes. What is larger ends when it is freed, and it must: glibc doesn't
        # find the place of an aligned block again for the next one of its size, and so would grow without end.
        library.mallopt(-3, 2**25)
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: so much may be free at the end of the heap
