"""Processes that train together, started as Lightning, torchrun or srun start them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from conftest import ROOT
from runs import free_port

TRAIN = [sys.executable, str(ROOT / "train.py")]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
ORPHAN_TIMEOUT_S = 120  # seconds for what takes a few on an idle machine


class Started:
    """A process whose words are kept."""

    def __init__(self, command: Sequence[str], folder: Path, environment: dict[str, str | None]) -> None:
        self.file = folder / f"said-{time.monotonic_ns()}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        kept["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        kept |= {name: value for name, value in environment.items() if value is not None}
        with self.file.open("w") as file:
            self.process = subprocess.Popen(
                command, cwd=folder, env=kept, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def ended(self, within: float = ORPHAN_TIMEOUT_S) -> int:
        """Its exit status."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {within} s; it said: {self.said[-2000:]}") from None

    @property
    def said(self) -> str:
        return self.file.read_text()

    @property
    def errors(self) -> list[str]:
        """The lines that answer for its end."""
        return [line for line in self.said.splitlines() if line.startswith("error")]


@contextmanager
def started(*commands: Sequence[str], folder: Path, environments: Sequence[dict] = ({},)) -> Iterator[list[Started]]:
    """Processes that are there within the block, and gone with all that they started after it."""
    environments = [*environments] * (len(commands) if len(environments) == 1 else 1)
    processes = [Started(*pair) for pair in zip(commands, [folder] * len(commands), environments, strict=True)]
    family: list[int] = []
    try:
        yield processes
    finally:
        for process in processes:
            family += [process.process.pid, *descendants(process.process.pid)]
        for number in family:
            if is_alive(number):
                os.kill(number, 9)
        for process in processes:
            process.process.wait()


@contextmanager
def srun(*overrides: Sequence[str], folder: Path, nodes: int = 1, **variables: str) -> Iterator[list[Started]]:
    """A task for each list of overrides, with the variables that srun sets."""
    tasks = len(overrides)
    environments = [
        {
            "SLURM_JOB_ID": "4321",
            "SLURM_STEP_ID": "0",
            "SLURM_JOB_NAME": "train",
            "SLURM_NTASKS": str(tasks),
            "SLURM_STEP_NUM_TASKS": str(tasks),
            "SLURM_NNODES": str(nodes),
            "SLURM_STEP_NUM_NODES": str(nodes),
            "SLURM_NODELIST": "localhost",
            "SLURM_PROCID": str(task),
            "SLURM_LOCALID": str(task % (tasks // nodes)),
            "SLURM_NODEID": str(task // (tasks // nodes)),
            "MASTER_PORT": str(port),
            **variables,
        }
        for port in [free_port()]
        for task in range(tasks)
    ]
    commands = [[*TRAIN, *own, "trainer.devices=auto"] for own in overrides]
    with started(*commands, folder=folder, environments=environments) as processes:
        yield processes


def descendants(process: int) -> list[int]:
    """The processes that one started, those that they started, and so on; of those that are still there."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def trainers(process: int) -> list[int]:
    """Those among a process and its descendants that train, by their ranks."""
    ranks = {}
    for one in [process, *descendants(process)]:
        try:
            variables = dict(
                line.split("=", 1) for line in Path(f"/proc/{one}/environ").read_text().split("\0") if "=" in line
            )
            command = Path(f"/proc/{one}/cmdline").read_text().split("\0")
        except OSError:
            continue
        if str(ROOT / "train.py") in command[1:3]:  # python, and torchrun's python -u
            ranks[int(variables.get("LOCAL_RANK", 0))] = one
    return [ranks[rank] for rank in sorted(ranks)]


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], object], within: float = ORPHAN_TIMEOUT_S, *, of: Started | None = None) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert of is None or of.process.poll() is None, of.said[-3000:]
        time.sleep(0.1)


class SeenImages(L.Callback):
    """Writes down which images each optimizer step trains on, in a file for each process."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        seen = [
            {"step": trainer.global_step, "id": name, "seed": int(seed)}
            for name, is_padding, seed in zip(batch["id"], batch["is_padding"], batch["seed"], strict=True)
            if not is_padding
        ]
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        with Path(self.folder, str(trainer.global_rank)).open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in seen)
