"""Processes that train together: who started them, and what all of them have to hold in common."""

import os
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Any

from captioning.errors import UserError

# Steps of a SLURM job that srun didn't make: its batch script, the shell of salloc, and so on.
FIRST_RESERVED_SLURM_STEP = 0xFFFFFFFA
STORE_WAIT = timedelta(seconds=60)  # for the agent of torchrun, which is up before its workers
LAUNCHER = "CAPTIONING_LAUNCHER"  # the number of the process that started this one to train beside it
GRACE = 10.0  # seconds that a process has to end by itself after one that it can't go on without
POLL = 0.5  # seconds between looks at another process


def default_run_dir(root: str = "outputs") -> str:
    """Where a run goes that wasn't told: one folder for all its processes, and for the same run started again.

    That is the time of its start; in a SLURM job its number, which it keeps when it is requeued; and under torchrun the
    time that the first of its workers left in torchrun's own store, where those that come after, or are started again,
    find it.

    Args:
        root: the folder above.

    Raises:
        UserError: somebody else started these processes, who share nothing in which they could agree.
    """
    if job := _slurm_job():
        return str(PurePosixPath(root, "slurm", job))
    now = str(PurePosixPath(root, datetime.now().strftime("%Y-%m-%d/%H-%M-%S")))
    if under_torchrun():
        return _first_in_store("captioning/run_dir", now)
    if _started_one_by_one():
        raise UserError(
            "hydra.run.dir is missing: these processes were started one by one, so each would take a folder of its "
            "own; give all of them the same hydra.run.dir=DIR"
        )
    return now


def is_restart() -> bool:
    """Whether torchrun or SLURM started these processes before, so that what is there is to be gone on with."""
    return any(int(os.environ.get(f"{name}_RESTART_COUNT") or 0) > 0 for name in ("TORCHELASTIC", "SLURM"))


def rank() -> int:
    """The number of this process among those that train together, as its environment tells before they have met."""
    if under_torchrun():
        return int(os.environ["RANK"])
    if under_srun():
        return int(os.environ["SLURM_PROCID"])
    return int(os.environ.get("LOCAL_RANK") or 0)


def named(ranks: Sequence[int], *, most: int = 8) -> str:
    """Processes in a line: their numbers, ``most`` of them at the most."""
    names = ", ".join(str(rank) for rank in ranks[:most]) + (", …" if len(ranks) > most else "")
    return f"process {names}" if len(ranks) == 1 else f"processes {names}"


def started_processes() -> tuple[int, int] | None:
    """How many processes torchrun or srun started on this machine, and on how many machines; None: neither did.

    Raises:
        UserError: srun started more of them on some machines than on others.
    """
    if under_torchrun():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if not under_srun():
        return None
    tasks = _slurm_tasks()
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ.get("SLURM_NNODES") or 1)
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
    return int(os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or 1)


def _slurm_step() -> int | None:
    """The number of the step that srun made of this process; None outside of one."""
    step = os.environ.get("SLURM_STEP_ID") or os.environ.get("SLURM_STEPID")
    return int(step) if step and int(step) < FIRST_RESERVED_SLURM_STEP else None


def _slurm_job() -> str | None:
    """The name of the SLURM job, and of its step but the first; None where somebody types commands in a shell."""
    job, step = os.environ.get("SLURM_JOB_ID"), _slurm_step()
    if job is None:
        return None
    if step is None:  # the batch script runs once, the shell of salloc as often as somebody likes
        return job if os.environ.get("ENVIRONMENT") == "BATCH" else None
    is_shell = "SLURM_PTY_PORT" in os.environ or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if is_shell and _slurm_tasks() == 1:
        return None
    return f"{job}-{step}" if step else job


def _started_one_by_one() -> bool:
    """By MPI, or by hand on each of several machines."""
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("PMI_SIZE") or 1) > 1:
        return True
    return "LOCAL_RANK" in os.environ or (int(os.environ.get("NODE_RANK") or 0) > 0)


def _first_in_store(key: str, value: str) -> str:
    """What the first process that asks leaves under ``key`` in torchrun's store, which outlives its workers."""
    try:
        if store := torchruns_store(STORE_WAIT):
            return str(store.compare_set(key, "", value).decode())
    except RuntimeError:  # as errors of the store are
        pass
    raise UserError(
        "hydra.run.dir is missing: torchrun's workers can't agree on a folder through its store at "
        f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}; give hydra.run.dir=DIR"
    )


def torchruns_store(timeout: timedelta) -> Any:
    """The store of torchrun, a ``torch.distributed.TCPStore`` that outlives its workers; None where there is none.

    Raises:
        RuntimeError: it isn't there.
    """
    if not under_torchrun() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch._C._distributed_c10d import TCPStore  # here, because most never need it

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)


def speaks(line: str) -> bool:
    """Whether this process is to say why it ends, or another has said the same.

    One that the first started has a reason of its own: the first came as far, and found no mistake. Of torchrun's
    workers the first with a reason says it, by way of torchrun's store. Tasks of srun have nothing to tell by.
    """
    if not under_torchrun():
        return True
    key = f"captioning/said/{os.environ.get('TORCHELASTIC_RESTART_COUNT')}/{blake2b(line.encode()).hexdigest()}"
    try:
        return _first_in_store(key, str(rank())) == str(rank())
    except UserError:
        return True


def watch_launcher() -> None:
    """End this process when the one that started it to train is gone, however that ended; nobody's child trains on."""
    if LAUNCHER in os.environ:
        threading.Thread(target=_end_without, args=(int(os.environ[LAUNCHER]),), daemon=True).start()
    elif under_torchrun():
        threading.Thread(target=_end_without, args=(os.getppid(),), daemon=True).start()


def _end_without(launcher: int) -> None:
    while os.getppid() == launcher:  # a process becomes another's when its parent ends
        time.sleep(POLL)
    time.sleep(GRACE)  # its own end is under way, most likely
    line = f"process {launcher}, which started this one, is gone, so this one ends too"
    print(f"error (process {rank()}): {line}", file=sys.stderr, flush=True)
    os._exit(1)  # the main thread may be waiting for the other processes, and hear nothing


def threads_of_a_process(*, cores: int, jobs_at_once: int, processes: int) -> int:
    """The threads of each process with which all processes of all jobs on a machine, together, have a core each."""
    return max(cores // (max(jobs_at_once, 1) * max(processes, 1)), 1)
