"""Whole runs in processes of their own, started so fast that a test can afford many of them."""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from conftest import ROOT

# One process imports everything, and each run is a fork of it.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["captioning.run", "captioning.config.schema", "matplotlib.figure", "captioning.runs.report.page"]
)


class Kill(L.Callback):
    """Sends its own process a signal, as somebody else might.

    Args:
        signal_name: such as ``SIGKILL``.
        step: after so many optimizer steps.
        where: in which hook.
        rank: of which process.
    """

    def __init__(
        self, *, signal_name: str, step: int, where: str = "on_train_batch_end", rank: int | None = None
    ) -> None:
        def strike(trainer: L.Trainer, *arguments: Any, **settings: Any) -> None:
            is_meant = rank in (None, trainer.global_rank) and trainer.global_step == step
            if is_meant and not trainer.sanity_checking:
                os.kill(os.getpid(), getattr(signal, signal_name))

        setattr(self, where, strike)


def _run(overrides: Sequence[str], environment: dict[str, str], log: str) -> None:
    os.environ.update(environment)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of what loads images, as it is outside of a fork server
    sys.argv = [str(ROOT / "train.py"), *overrides]
    runpy.run_path(sys.argv[0], run_name="__main__")


def start(*overrides: str, folder: Path, processes: int = 1) -> list[Any]:
    """Start ``python train.py`` in a run folder, as ``processes`` processes that train together."""
    folder.mkdir(parents=True, exist_ok=True)
    given = [*overrides, f"trainer.devices={processes}"]
    given += [] if f"resume={folder}" in overrides else [f"hydra.run.dir={folder}"]
    together = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    for rank in range(processes):
        environment = {**together, "LOCAL_RANK": str(rank), "RANK": str(rank)} if processes > 1 else {}
        log = folder.parent / f"{folder.name}.log"
        process = _context.Process(target=_run, args=(given, environment, str(log)))
        process.start()
        started.append(process)
    return started


def run(*overrides: str, folder: Path, processes: int = 1) -> list[int]:
    """The exit statuses of a run's processes; minus the number of the signal where one was killed."""
    started = start(*overrides, folder=folder, processes=processes)
    for process in started:
        process.join(120)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"still running: {said(folder)}")
    return [process.exitcode for process in started]


def said(folder: Path) -> str:
    """All that runs in a folder have printed."""
    log = folder.parent / f"{folder.name}.log"
    return log.read_text() if log.exists() else ""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
