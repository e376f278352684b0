"""A SLURM of one machine: `sbatch`, `srun`, `sacct`, `scancel` and `scontrol requeue`, as far as submitit uses them.

A job is a process group. Its state is a file in the folder that SLURM_STAND_IN names. Unlike SLURM it has room for all.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NAMES = ("sbatch", "srun", "sacct", "scancel", "scontrol")
STATE = Path(os.environ.get("SLURM_STAND_IN", "."))


def install(folder: Path) -> dict[str, str]:
    """Put the commands into a folder; the environment that finds them."""
    (folder / "bin").mkdir()
    for name in NAMES:
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__)}" {name} "$@"\n')
        command.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "SLURM_STAND_IN": str(folder)}


def sbatch(script: str) -> None:
    """Start each job of the script's array, or the one that it is, and name them by a number."""
    number = str(100 + len(list(STATE.glob("*.script"))))
    text = Path(script).read_text()
    (STATE / f"{number}.script").write_text(text)
    array = re.search(r"--array=0-(\d+)", text)
    for index in range(int(array.group(1)) + 1) if array else (None,):
        start(number if index is None else f"{number}_{index}", restarts=0)
    print(f"Submitted batch job {number}")


def start(job: str, restarts: int) -> None:
    """Run a job in the background; `wait` keeps its state."""
    subprocess.Popen([sys.executable, __file__, "wait", job, str(restarts)], start_new_session=True,
                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip


def wait(job: str, restarts: str) -> None:
    number, _, index = job.partition("_")
    environment = {
        **os.environ,
        "SLURM_JOB_ID": str(1000 * int(number) + int(index)) if index else number,  # in an array, a number of its own
        "SLURM_JOB_NODELIST": "here",
    }
    environment |= {"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_JOB_NUM_NODES": "1", "ENVIRONMENT": "BATCH"}
    environment |= {"SLURM_RESTART_COUNT": restarts, "SLURM_JOB_NAME": "captioning", "SLURM_STAND_IN_JOB": job}
    if index:
        environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index}
    process = subprocess.Popen(["bash", str(STATE / f"{number}.script")], env=environment, start_new_session=True)
    set_state(job, f"RUNNING {process.pid}")
    status = process.wait()
    if (STATE / f"{job}.requeue").exists():
        (STATE / f"{job}.requeue").unlink()
        start(job, int(restarts) + 1)
    else:
        set_state(job, "COMPLETED" if status == 0 else "FAILED")


def srun(*arguments: str) -> None:
    """Run the command as the one task of a step, with its output where submitit wants it."""
    given, options = list(arguments), {}
    while given and given[0].startswith("--"):
        option = given.pop(0)
        options[option] = "" if option == "--unbuffered" else given.pop(0)
    marks = {"%j": os.environ["SLURM_JOB_ID"], "%t": "0", "%A": os.environ.get("SLURM_ARRAY_JOB_ID", ""),
             "%a": os.environ.get("SLURM_ARRAY_TASK_ID", "")}  # fmt: skip
    for option, descriptor in (("--output", 1), ("--error", 2)):
        path = options[option]
        for mark, value in marks.items():
            path = path.replace(mark, value)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    job = os.environ["SLURM_STAND_IN_JOB"]
    (STATE / f"{job}.step").write_text(str(os.getpid()))
    step = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_STEP_ID": "0", "SLURM_STEPID": "0",
            "SLURM_STEP_NUM_TASKS": "1"}  # fmt: skip
    os.execvpe(given[0], given, {**os.environ, **step})


def sacct(*_: str) -> None:
    print("JobID|State|NodeList")
    for path in STATE.glob("*.state"):
        print(f"{path.stem}|{path.read_text().split()[0]}|here")


def scancel(option: str, *jobs: str) -> None:
    """`--state=PENDING` does nothing, for no job ever waits; `--signal=TERM` reaches each job's step."""
    for job in jobs if option == "--signal=TERM" else ():
        os.kill(int((STATE / f"{job}.step").read_text()), signal.SIGTERM)


def scontrol(action: str, job: str) -> None:
    assert action == "requeue"
    (STATE / f"{job}.requeue").touch()


def end(process: int) -> None:
    """End a job's step, if it still runs."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def set_state(job: str, state: str) -> None:
    part = STATE / f"{job}.part"
    part.write_text(state)
    part.replace(STATE / f"{job}.state")


if __name__ == "__main__":
    actions: dict[str, Callable[..., None]] = {name: globals()[name] for name in (*NAMES, "wait")}
    actions[sys.argv[1]](*sys.argv[2:])
