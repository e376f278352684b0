"""How the processes of a run are started and meet, and what becomes of the others when one of them is lost."""

import atexit
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

from captioning.config.compose import literal
from captioning.data.cache import available_cores
from captioning.errors import UserError
from captioning.training.distributed.environment import (
    GRACE,
    LAUNCHER,
    POLL,
    named,
    threads_of_a_process,
    torchruns_store,
)
from captioning.training.signals import INTERRUPTED

ADVICE = "go on from the last checkpoint with resume=RUN_FOLDER"
MEETING_POLL = 0.05  # seconds between looks into the store while processes come
MARKS = 3.0  # seconds in which all processes that lost another come to know it
PORTS = range(15000, 30000)  # below those that a system hands out by itself


class StepEnvironment(SLURMEnvironment):
    """The tasks of one ``srun``, each of which is a process of the run. Requeueing is left to the batch script."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_variables() -> None:
        """Nothing: ``--ntasks=2`` is as good as ``--ntasks-per-node=2``; `_as_started` compares the numbers."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Nothing, for the same reason."""

    @property
    def main_port(self) -> int:
        """Another one for each step: two of them may run at once."""
        if "MASTER_PORT" not in os.environ:
            job, step = (int(os.environ.get(f"SLURM_{name}_ID") or 0) for name in ("JOB", "STEP"))
            os.environ["MASTER_PORT"] = str(PORTS[(job + 1009 * step) % len(PORTS)])
        return int(os.environ["MASTER_PORT"])


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher, with three differences.

    The other processes are given the run folder itself; Lightning would compose its name anew. One of them that was
    interrupted may end before this one has, without its being killed. And when one is lost, this process says which,
    and no process is left over.
    """

    procs: list["subprocess.Popen[bytes]"]

    def launch(self, function: Any, *args: Any, trainer: L.Trainer | None = None, **kwargs: Any) -> Any:
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            atexit.register(self._end_others)
            threading.Thread(target=self._watch, daemon=True).start()
        return function(*args, **kwargs)

    def _call_children_scripts(self) -> None:
        environment = {
            "MASTER_ADDR": self.cluster_environment.main_address,
            "MASTER_PORT": str(self.cluster_environment.main_port),
            "NODE_RANK": str(self.cluster_environment.node_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
        }
        os.environ.update(environment, LOCAL_RANK="0")
        command, folder = _command_of_this_process()
        threads = threads_of_a_process(cores=available_cores(), jobs_at_once=1, processes=self.num_processes)
        for local_rank in range(1, self.num_processes):
            own = {"LOCAL_RANK": str(local_rank), LAUNCHER: str(os.getpid())}
            self.procs.append(
                subprocess.Popen(command, env={"OMP_NUM_THREADS": str(threads), **os.environ, **own}, cwd=folder)
            )
        if "OMP_NUM_THREADS" not in os.environ and self.num_processes > 1:
            torch.set_num_threads(threads)

    def lost(self) -> str | None:
        """Which of the other processes is gone that shouldn't be, and how; None: none is."""
        for local_rank, process in enumerate(self.procs, start=1):
            status = process.poll()
            if status not in (None, 0, INTERRUPTED):
                rank = self.cluster_environment.node_rank() * self.num_processes + local_rank
                return f"process {rank} {_manner(status)}"
        return None

    def _watch(self) -> None:
        while any(process.poll() is None for process in self.procs) and not self.lost():
            time.sleep(POLL)
        if line := self.lost():
            # This process has most likely noticed, and says it itself. If the other ended by a mistake of its own, this
            # one may have made the same, and have much to put away.
            was_killed = any((process.poll() or 0) < 0 for process in self.procs)
            time.sleep(GRACE if was_killed else 3 * GRACE)
            print(f"error: {line}, and the others can't go on without it; {ADVICE}", file=sys.stderr, flush=True)
            self.kill(signal.SIGKILL)
            os._exit(1)  # the main thread waits in a collective, and hears nothing

    def _end_others(self) -> None:
        """Leave no process behind, whatever this one ends of."""
        deadline = time.monotonic() + GRACE
        for process in self.procs:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        self.kill(signal.SIGKILL)


def _manner(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    return f"was ended by {name}" + (", as it is done when memory runs out" if name == "SIGKILL" else "")


def _command_of_this_process() -> tuple[list[str], str | None]:
    """What runs this program once more, for the same run folder, and where."""
    from __main__ import __spec__ as module

    program = ["-m", module.name] if module else [os.path.abspath(sys.argv[0])]  # noqa: PTH100  as it was given
    command = [sys.executable, *program, *sys.argv[1:]]
    if not HydraConfig.initialized():
        return command, None
    hydra = HydraConfig.get()
    given = [f"hydra.run.dir={literal(hydra.runtime.output_dir)}", "hydra.output_subdir=null"]
    return [*command, *given], hydra.runtime.cwd


def meet(device: torch.device, *, timeout: timedelta) -> None:
    """Join the process group of torchrun's workers; of other launchers' processes Lightning does it.

    When torchrun starts its workers again, its store holds still under which addresses the earlier ones were found, and
    some would wait for those. So they meet in a part of the store that the first of them names for this time alone. The
    number of restarts wouldn't do for its name: it differs between machines.
    """
    store = torchruns_store(timeout)
    if store is None or distributed.is_initialized():
        return
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    deadline = time.monotonic() + timeout.total_seconds()
    name = _welcome(store, world_size, deadline) if rank == 0 else _welcomed(store, rank, deadline)
    distributed.init_process_group(
        distributed.Backend.default_device_backend_map.get(device.type, "gloo"),
        store=PrefixStore(f"captioning/group/{name}", store),
        rank=rank,
        world_size=world_size,
        timeout=timeout,
        device_id=device if device.type != "cpu" else None,
    )


def _welcome(store: Store, world_size: int, deadline: float) -> str:
    """Name the group, and tell every worker that asks, until all have answered; one of an earlier time won't."""
    name = uuid.uuid4().hex
    while True:
        answered = sum(store.check([f"captioning/here/{name}/{rank}"]) for rank in range(1, world_size))
        if answered == world_size - 1:
            return name
        for rank in range(1, world_size):
            if store.check([f"captioning/asks/{rank}"]):
                store.set(f"captioning/told/{store.get(f'captioning/asks/{rank}').decode()}", name)
        if time.monotonic() > deadline:
            raise distributed.DistStoreError(f"timed out: {answered + 1}/{world_size} clients joined")
        time.sleep(MEETING_POLL)


def _welcomed(store: Store, rank: int, deadline: float) -> str:
    question = uuid.uuid4().hex
    store.set(f"captioning/asks/{rank}", question)
    while not store.check([f"captioning/told/{question}"]):
        if time.monotonic() > deadline:
            raise distributed.DistStoreError("timed out: the first process of the group didn't come")
        time.sleep(MEETING_POLL)
    name: str = store.get(f"captioning/told/{question}").decode()
    store.set(f"captioning/here/{name}/{rank}", "yes")
    return name


@contextmanager
def explain_rank_failure(trainer: L.Trainer, *, timeout_seconds: float) -> Iterator[None]:
    """Within, a process that loses another, or waits for it too long, ends with a line that says so.

    All that lost one tell each other through the store by which they met, and the first of them speaks.

    Raises:
        UserError: of the process that speaks, where that is the first; the others exit with status 1.
    """
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size == 1 or not (how := _lost_connection(str(error))):
            raise
        present = _present(trainer)
        line = _obituary(trainer, str(error), how, present, timeout_seconds)
        line = f"{line}, and the others can't go on without it; {ADVICE}"
        if trainer.global_rank == 0:
            raise UserError(line) from error
        if trainer.global_rank == min(present, default=trainer.global_rank):
            print(f"error (process {trainer.global_rank}): {line}", file=sys.stderr, flush=True)
        raise SystemExit(1) from error


def _obituary(trainer: L.Trainer, message: str, how: str, present: list[int], timeout_seconds: float) -> str:
    """Which process is lost, and how, as far as it can be known."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, Launcher) and (lost := launcher.lost()):
        return lost
    limit = f"within {timeout_seconds:g} s (collective_timeout_seconds)"
    if joined := re.search(r"(\d+)/(\d+) clients joined", message):
        return f"only {joined.group(1)} of {joined.group(2)} processes came {limit}"
    missing = [rank for rank in range(trainer.world_size) if rank not in present] if present else [0]
    if not missing and how == "stalled":
        return f"all {trainer.world_size} processes wait for each other, and nothing came {limit}"
    who = f"{named(missing)} of {trainer.world_size}" if missing else "another process"
    return f"{who} didn't come {limit}" if how == "stalled" else f"lost {who}"


def _lost_connection(message: str) -> str:
    """Whether an error of gloo, NCCL or the store tells of a process that's ``gone`` or ``stalled``; else empty."""
    stalled = ("Timed out waiting", "timed out", "Timeout", "timeout", "clients joined")
    gone = (
        *("Connection closed by peer", "Connection reset", "Connection refused", "Broken pipe", "Socket closed"),
        *("remote process", "ncclRemoteError"),
    )
    if any(text in message for text in gone):
        return "gone"
    return "stalled" if any(text in message for text in stalled) else ""


def _present(trainer: L.Trainer) -> list[int]:
    """The processes that lost another as this one did; none where the first is gone, which keeps the store."""
    try:
        store = _get_default_store()
        store.set(f"captioning/present/{trainer.global_rank}", "yes")
        time.sleep(MARKS)
        return [rank for rank in range(trainer.world_size) if store.check([f"captioning/present/{rank}"])]
    except (RuntimeError, ValueError):
        return []
