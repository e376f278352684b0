"""Whole runs in processes of their own, started so fast that a test can afford many of them."""

import atexit
import importlib
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import lightning as L
import torch
from conftest import ROOT

# One process imports everything, and each run is a fork of it.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *("captioning.run", "captioning.cli", "captioning.config.schema", "captioning.sweeps.jobs"),
        *("captioning.runs.report.page", "matplotlib.figure", "datasets", "peft", "transformers.optimization"),
        *("transformers.models.git.processing_git", "transformers.models.clip.image_processing_pil_clip"),
        "frozen",
    ]
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


def _run(command: Sequence[str], folder: str, environment: dict[str, str], out: str, err: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    torch.set_num_threads(1)
    importlib.reload(huggingface_hub.constants)  # which are read from the environment
    multiprocessing.set_start_method("fork", force=True)  # of what loads images, as it is outside of a fork server
    sys.argv = [*command]
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


def forked(
    command: Sequence[object], folder: Path | None = None, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """``subprocess.run`` of a Python script, such as train.py or .venv/bin/captioning, and its arguments.

    The process is a fork of one that has imported everything: not for a test of imports, nor of what libraries but
    the Hub's read from the environment while they are imported, nor of processes that start themselves once more.
    """
    command = [str(part) for part in command]
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch, "out"), Path(scratch, "err")
        process = _context.Process(
            target=_run,
            args=(command, str(folder or Path.cwd()), {**os.environ} if environment is None else environment),
            kwargs={"out": str(out), "err": str(err)},
        )
        process.start()
        process.join(300)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(command, 300, err.read_bytes())
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text(), err.read_text())


def train(*overrides: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run ``python train.py`` in a folder of its own, as someone who isn't logged in to anything."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return forked([ROOT / "train.py", *overrides], folder, {**inherited, "NETRC": str(folder / "netrc"), **environment})


def start(*overrides: str, folder: Path, processes: int = 1) -> list[Any]:
    """Start ``python train.py`` in a run folder, as ``processes`` processes that train together."""
    folder.mkdir(parents=True, exist_ok=True)
    given = [*overrides, f"trainer.devices={processes}"]
    given += [] if f"resume={folder}" in overrides else [f"hydra.run.dir={folder}"]
    together = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = []
    for rank in range(processes):
        environment = {**together, "LOCAL_RANK": str(rank), "RANK": str(rank)} if processes > 1 else {}
        log = str(folder.parent / f"{folder.name}.log")
        command = [str(ROOT / "train.py"), *given]
        process = _context.Process(
            target=_run, args=(command, str(Path.cwd()), {**os.environ, **environment}, log, log)
        )
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
