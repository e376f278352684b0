"""The part of a machine that each of several jobs on it may use: some of its cores, and GPUs of its own."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from captioning.errors import UserError

ON_GPUS = ("auto", "gpu", "cuda")
POLL = 1.0  # seconds between looks for free GPUs


def threads_of_a_process(*, cores: int, jobs_at_once: int, processes: int) -> int:
    """The threads with which the processes of all jobs, together, have a core each.

    Args:
        cores: of the machine.
        jobs_at_once: jobs that share it.
        processes: that each of them trains with.
    """
    return max(cores // (max(jobs_at_once, 1) * max(processes, 1)), 1)


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that there are to share, as ``CUDA_VISIBLE_DEVICES`` names them, or else all of the machine."""
    if (stated := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in stated.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def gpus_wanted(trainer: Mapping[str, Any], *, gpus: int, jobs_at_once: int) -> int:
    """How many GPUs of its own a job gets; 0 for one that computes elsewhere, or that names its GPUs itself.

    Args:
        trainer: its ``trainer`` settings.
        gpus: how many there are.
        jobs_at_once: jobs that share them.

    Raises:
        UserError: it asks for more than there are.
    """
    devices = trainer.get("devices", "auto")
    if not gpus or trainer.get("accelerator", "auto") not in ON_GPUS:
        return 0
    if devices in ("auto", -1, "-1", None):
        return max(gpus // max(jobs_at_once, 1), 1)
    if not str(devices).isdecimal():
        return 0
    if int(devices) > gpus:
        raise UserError(f"trainer.devices={devices}: there are {gpus} GPUs")
    return int(devices)


@contextmanager
def own_gpus(
    gpus: Sequence[str],
    wanted: int,
    *,
    stop_asked: Callable[[], bool] = lambda: False,
    folder: Path | None = None,
) -> Iterator[list[str]]:
    """Wait until so many GPUs are free, and keep them from this user's other jobs on this machine.

    The system gives them back if this process is killed.

    Args:
        gpus: what there is.
        wanted: how many to take, at most all.
        stop_asked: whether to wait no longer, and do with none.
        folder: where the locks are; by default one of this user's for temporary files.
    """
    folder = folder or Path(tempfile.gettempdir(), f"captioning-gpus-{os.getuid() if hasattr(os, 'getuid') else ''}")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        taken: list[str] = []
        while len(taken) < wanted and not stop_asked():
            with FileLock(folder / "choosing.lock"):  # two that have half of what they want would wait for each other
                taken = _take(gpus, wanted, folder, held)
            if len(taken) < wanted:
                time.sleep(POLL)
        yield taken


def _take(gpus: Sequence[str], wanted: int, folder: Path, held: ExitStack) -> list[str]:
    """So many GPUs that are free, locked until ``held`` is closed; none where there are fewer."""
    with ExitStack() as tried:
        taken: list[str] = []
        for gpu in gpus:
            lock = FileLock(folder / f"{gpu.replace('/', '_')}.lock", thread_local=False)
            try:
                tried.enter_context(lock.acquire(timeout=0))
            except Timeout:
                continue
            taken.append(gpu)
            if len(taken) == wanted:
                held.push(tried.pop_all())
                return taken
    return []
