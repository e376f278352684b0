"""All that leans on the inside of Lightning's launching, and what becomes of a run that loses one of its processes."""

import atexit
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import distributed
from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed import DistNetworkError, DistStoreError

from captioning.errors import UserError
from captioning.training.distributed.environment import LAUNCHER, torchrun_store
from captioning.training.signals import INTERRUPTED, default_signals

T = TypeVar("T")
GRACE_S = 20.0  # for this process to notice by itself that another is lost, and to end in good order
ADVICE = "the others can't continue without it; resume from the last checkpoint with resume=RUN_FOLDER"
END_S = 5.0  # for the others to end by themselves after the last thing that they do together
PORT_KEY = "captioning/port"
PORTS = range(15000, 30000)  # below those that a system hands out by itself
# What gloo, NCCL and the store say when a process is gone, and when it didn't come in time.
GONE = r"Connection (closed|reset|refused)|Broken pipe|Socket closed|remote process|ncclRemoteError"
STALLED = r"[Tt]imed out|[Tt]imeout|clients joined"


class StepEnvironment(SLURMEnvironment):
    """The tasks of one ``srun``, each of which is a process of the run. Requeueing is left to the batch script."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_variables() -> None:
        """Nothing: ``--ntasks=2`` is as good as ``--ntasks-per-node=2``, which Lightning insists on."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Nothing, for the same reason."""

    @property
    def main_port(self) -> int:
        """Another one for each step: two of them may run at once."""
        job, step = (int(os.environ.get(f"SLURM_{name}_ID") or 0) for name in ("JOB", "STEP"))
        return int(os.environ.setdefault("MASTER_PORT", str(PORTS[(job + 1009 * step) % len(PORTS)])))


class LaunchedDDPStrategy(DDPStrategy):
    """Lightning's DDP with :class:`Launcher`."""

    def _configure_launcher(self) -> None:
        self._launcher = _make_launcher(self)

    def setup_environment(self) -> None:
        with _waiting_for_others(self):
            super().setup_environment()


class LaunchedFSDPStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP with :class:`Launcher`, and a mesh of all processes."""

    def _configure_launcher(self) -> None:
        self._launcher = _make_launcher(self)

    def setup_environment(self) -> None:
        # As many as there are is known only now, and Lightning takes the processes of a machine for tensor parallel.
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        with _waiting_for_others(self):
            super().setup_environment()


def _make_launcher(strategy: DDPStrategy | ModelParallelStrategy) -> "Launcher":
    assert strategy.cluster_environment is not None
    return Launcher(strategy.cluster_environment, strategy.num_processes, strategy.num_nodes)


@contextmanager
def _waiting_for_others(strategy: DDPStrategy | ModelParallelStrategy) -> Iterator[None]:
    assert strategy._timeout is not None
    with default_signals():  # or a process that waits for the others couldn't be ended
        join_workers(strategy.root_device, timeout=strategy._timeout)
        yield


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher, with :class:`RankObserver` beside it; no process that it started outlives this one."""

    observer: "RankObserver | None" = None

    def launch(
        self, function: Callable[..., T], *args: object, trainer: L.Trainer | None = None, **kwargs: object
    ) -> T:
        if not self.cluster_environment.creates_processes_externally:
            os.environ[LAUNCHER] = str(os.getpid())
            self._call_children_scripts()
            first_rank = self.cluster_environment.node_rank() * self.num_processes
            self.observer = RankObserver(self.procs, first_rank=first_rank)
            self.observer.start()
            atexit.register(self._end_others)
        _set_num_threads_if_needed(self.num_processes)
        return function(*args, **kwargs)

    def _end_others(self) -> None:
        deadline = time.monotonic() + END_S
        while time.monotonic() < deadline and any(process.poll() is None for process in self.procs):
            time.sleep(0.1)
        self.kill(signal.SIGKILL)


class RankObserver(_ChildProcessObserver):
    """Lightning's observer of the processes that this one started.

    Lightning's would end this process by SIGKILL at once. This one says which process was lost, lets this process save
    and say what it has to say first, and takes one that was interrupted for one that ended well.
    """

    def __init__(self, processes: list["subprocess.Popen[bytes]"], *, first_rank: int) -> None:
        super().__init__(os.getpid(), processes, sleep_period=1)
        self.first_rank = first_rank

    def failure(self) -> str | None:
        """Which process is lost, and how; None: none is."""
        for rank, process in enumerate(self._child_processes, start=self.first_rank + 1):
            status = process.poll()
            if status and status > 0 and status != INTERRUPTED:
                return f"process {rank} ended with status {status}"
            if status and status < 0:
                name = signal.Signals(-status).name
                hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
                return f"process {rank} was ended by {name}{hint}"
        return None

    def _run(self) -> bool:
        if line := self.failure():
            time.sleep(GRACE_S)
            print(f"error: {line}; {ADVICE}", file=sys.stderr, flush=True)
            for process in self._child_processes:
                process.kill()
            os._exit(1)  # the main thread waits for the others, where no exception reaches it
        return all(process.poll() is not None for process in self._child_processes)


def join_workers(device: torch.device, *, timeout: timedelta) -> None:
    """Let torchrun's workers find each other; those of other launchers do it by Lightning's means.

    torchrun's store outlives its workers. When they are started again, it still holds the addresses of the earlier
    ones, and some would connect to those and fail. So each time the first worker opens a store of its own, and the
    others look for its port until one answers.

    Raises:
        DistStoreError: the first worker, or torchrun's store, wasn't there in time.
    """
    agent = torchrun_store(timeout)
    if agent is None or distributed.is_initialized():
        return
    host, rank, world_size = os.environ["MASTER_ADDR"], int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    deadline = time.monotonic() + timeout.total_seconds()
    store: Store | None = None
    if rank == 0:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        agent.set(PORT_KEY, str(store.port))
    while store is None:
        if time.monotonic() > deadline:
            raise DistStoreError("timed out: the first process didn't come")
        time.sleep(0.1)
        with suppress(DistStoreError, DistNetworkError):  # none there yet, or an earlier one, which is gone
            agent.wait([PORT_KEY], timedelta(seconds=1))
            store = TCPStore(host, int(agent.get(PORT_KEY)), is_master=False, timeout=timedelta(seconds=2))
            store.set_timeout(timeout)
    distributed.init_process_group(
        distributed.Backend.default_device_backend_map.get(device.type, "gloo"),
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=timeout,
        device_id=device if device.type != "cpu" else None,
    )


@contextmanager
def explain_rank_failure(trainer: L.Trainer, *, timeout_seconds: float) -> Iterator[None]:
    """Within, a process that loses another, or waits for it too long, ends with a line that says so.

    Raises:
        UserError: that line, in the first process; the others exit with status 1, without a line where the process that
            started them is there to say it.
    """
    try:
        yield
    except RuntimeError as error:
        is_gone, is_stalled = re.search(GONE, str(error)), re.search(STALLED, str(error))
        if trainer.world_size == 1 or not (is_gone or is_stalled):
            raise
        time.sleep(2.0)  # connections are closed before the system knows that a process has ended, and how
        if os.environ.get(LAUNCHER) == str(os.getppid()):
            raise SystemExit(1) from error
        observer = getattr(trainer.strategy.launcher, "observer", None)
        limit = f"within {timeout_seconds:g} s (collective_timeout_seconds)"
        if observer and (failure := observer.failure()):
            line = failure
        elif joined := re.search(r"(\d+)/(\d+) clients joined", str(error)):
            line = f"only {joined.group(1)} of {joined.group(2)} processes came {limit}"
        else:
            line = "lost another process" if is_gone else f"another process didn't answer {limit}"
        if trainer.is_global_zero:
            raise UserError(f"{line}; {ADVICE}") from error
        print(f"error (process {trainer.global_rank}): {line}; {ADVICE}", file=sys.stderr, flush=True)
        raise SystemExit(1) from error
