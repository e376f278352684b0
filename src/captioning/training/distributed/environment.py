"""Processes that train together: who started them, and what each can know before they have met."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from captioning.errors import UserError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

# Steps of a SLURM job that srun didn't make: its batch script, the shell of salloc, and so on.
FIRST_RESERVED_SLURM_STEP = 0xFFFFFFFA
STORE_WAIT = timedelta(seconds=60)  # for the agent of torchrun, which is up before its workers
LAUNCHER = "CAPTIONING_LAUNCHER"  # the number of the process that started others to train beside it
SWEEP = "CAPTIONING_SWEEP_PID"  # the process of the sweep that started this run
ORPHAN_TIMEOUT_S = 10.0  # that a process has to end by itself after the one that started it


def dated_run_dir() -> str:
    """``outputs/DATE/TIME``."""
    return str(PurePosixPath("outputs", datetime.now().strftime("%Y-%m-%d/%H-%M-%S")))


def default_run_dir() -> str:
    """Where a run goes without ``hydra.run.dir``: one folder for all its processes, and for the same run restarted.

    That is the time of its start; in a SLURM job its number, which it keeps when it is requeued; and under torchrun the
    time that the first of its workers left in torchrun's own store, where those that come after, or are started again,
    find it.

    Raises:
        UserError: these processes were started one by one, and share nothing in which they could agree.
    """
    if job := _slurm_job():
        return str(PurePosixPath("outputs", "slurm", job))
    now = dated_run_dir()
    if under_torchrun():
        with suppress(RuntimeError):  # as errors of the store are
            if store := torchrun_store(STORE_WAIT):
                return str(store.compare_set("captioning/run_dir", "", now).decode())
        raise UserError(
            "hydra.run.dir is missing: torchrun's workers can't agree on a folder through its store at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}; give hydra.run.dir=DIR"
        )
    is_mpi = _number("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", default=1) > 1
    if is_mpi or "LOCAL_RANK" in os.environ or _number("NODE_RANK") > 0:
        raise UserError(
            "hydra.run.dir is missing: these processes were started one by one, so each would take a folder of its "
            "own; give all of them the same hydra.run.dir=DIR"
        )
    return now


def is_restart() -> bool:
    """Whether torchrun or SLURM started these processes before, so that the run is resumed."""
    return _number("TORCHELASTIC_RESTART_COUNT") > 0 or _number("SLURM_RESTART_COUNT") > 0


def is_rank_zero() -> bool:
    """Whether this process is the first of those that train together, before and after they have met."""
    return not process_name()


def rank() -> int:
    """The number of this process among those of torchrun or srun, else among those of its machine."""
    return _number("RANK" if under_torchrun() else "SLURM_PROCID" if under_srun() else "LOCAL_RANK")


def process_name() -> str:
    """``process 3``, ``process 0 of machine 1`` where each machine starts its own, or empty for the first of all."""
    node = 0 if under_torchrun() or under_srun() else _number("NODE_RANK")
    return f"process {rank()} of machine {node}" if node else f"process {rank()}" if rank() else ""


def prints_errors() -> bool:
    """Whether this process prints its mistakes, or the first of its machine, which was started beside it, does.

    One that Lightning started has a mistake of its own: the first came as far as starting it, and made none.
    """
    return LAUNCHER in os.environ or _number("SLURM_LOCALID" if under_srun() else "LOCAL_RANK") == 0


def format_ranks(ranks: Sequence[int], *, most: int = 8) -> str:
    """``process 3`` or ``processes 1, 3``, ``most`` of them at the most."""
    names = ", ".join(str(rank) for rank in ranks[:most]) + (", …" if len(ranks) > most else "")
    return f"process {names}" if len(ranks) == 1 else f"processes {names}"


def started_processes() -> tuple[int, int] | None:
    """How many processes torchrun or srun started on this machine, and on how many machines; None: neither did.

    Raises:
        UserError: srun started more of them on some machines than on others.
    """
    if under_torchrun():
        local = _number("LOCAL_WORLD_SIZE")
        return local, _number("WORLD_SIZE") // local
    if not under_srun():
        return None
    tasks, nodes = _slurm_tasks(), _number("SLURM_STEP_NUM_NODES", "SLURM_NNODES", default=1)
    if tasks % nodes:
        raise UserError(f"srun started {tasks} tasks on {nodes} nodes: give --ntasks-per-node, one task for each GPU")
    return tasks // nodes, nodes


def under_torchrun() -> bool:
    """Whether this process is a worker of torchrun."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def under_srun() -> bool:
    """Whether this process is one of several tasks that ``srun`` started."""
    return _slurm_step() is not None and _slurm_tasks() > 1


def _slurm_tasks() -> int:
    return _number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", default=1)


def _slurm_step() -> int | None:
    """The number of the step that srun made of this process; None outside of one."""
    step = _number("SLURM_STEP_ID", "SLURM_STEPID", default=FIRST_RESERVED_SLURM_STEP)
    return step if step < FIRST_RESERVED_SLURM_STEP else None


def _slurm_job() -> str | None:
    """The name of the SLURM job, and of its step but the first; None where somebody types commands in a shell."""
    job, step = os.environ.get("SLURM_JOB_ID"), _slurm_step()
    if job is None or step is None:  # the batch script runs once, the shell of salloc as often as somebody likes
        return job if os.environ.get("ENVIRONMENT") == "BATCH" else None
    is_shell = "SLURM_PTY_PORT" in os.environ or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if is_shell and _slurm_tasks() == 1:
        return None
    return f"{job}-{step}" if step else job


def _number(*names: str, default: int = 0) -> int:
    """The first of these environment variables that is set."""
    return next((int(value) for name in names if (value := os.environ.get(name))), default)


def torchrun_store(timeout: timedelta) -> "TCPStore | None":
    """The store of torchrun, which outlives its workers; None where there is none.

    Raises:
        RuntimeError: it isn't there.
    """
    if not under_torchrun() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch._C._distributed_c10d import TCPStore  # here, because most never need it

    return TCPStore(os.environ["MASTER_ADDR"], _number("MASTER_PORT"), is_master=False, timeout=timeout)


def stop_with_sweep() -> None:
    """Have this run stop as by SIGTERM when the sweep that started it is gone; nothing outside of a sweep."""
    # Taken out of the environment: the further processes of a run have this one for their parent.
    sweep = int(os.environ.pop(SWEEP, 0))

    def watch() -> None:
        while os.getppid() == sweep:  # it becomes another's when the sweep ends
            time.sleep(1)
        try:
            print(f"the sweep, process {sweep}, is gone: stopping", file=sys.stderr, flush=True)
        except OSError:  # the sweep was what read it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        os.kill(os.getpid(), signal.SIGTERM)

    if sweep:
        threading.Thread(target=watch, daemon=True).start()


def exit_with_parent() -> None:
    """End this process some seconds after the one that started it to train, however that ended."""
    parent = _number(LAUNCHER, default=os.getppid() if under_torchrun() else 0)

    def watch() -> None:
        while os.getppid() == parent:  # a process becomes another's when its parent ends
            time.sleep(0.5)
        time.sleep(ORPHAN_TIMEOUT_S)  # its own end is under way, most likely
        line = f"process {parent}, which started this one, is gone, so this one ends too"
        print(f"error ({process_name() or 'process 0'}): {line}", file=sys.stderr, flush=True)
        os._exit(1)  # the main thread may be waiting for the other processes, where no exception reaches it

    if parent not in (0, os.getpid()):
        threading.Thread(target=watch, daemon=True).start()
