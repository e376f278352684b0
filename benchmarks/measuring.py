"""What several of these programs measure, run and print alike. It imports nothing heavy: that would be measured."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]


def of_this_process(name: str) -> int:
    """Bytes, by a name in Linux' status of processes: VmRSS is what it has, VmHWM the most that it had."""
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def peak_memory(device: str) -> int:
    """The most bytes that this process had; on a GPU, that its tensors took there."""
    if device == "cpu":
        return of_this_process("VmHWM")  # getrusage would begin with what the parent had
    import torch

    return torch.cuda.max_memory_allocated()


def age() -> float:
    """Seconds since this process was started, its imports among them."""
    since_boot = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(since_boot) / os.sysconf("SC_CLK_TCK")


class Record:
    """What a training took, by one rule for every way to train.

    A step is an optimizer step, from the end of the one before it, or from the beginning of its epoch. After an
    evaluation within an epoch the next step isn't counted: what was saved before it would be in its time.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.first_step: float | None = None  # its end, in seconds of the process
        self.steps: list[tuple[float, int]] = []  # seconds and images of each
        self.evaluations: list[tuple[float, int]] = []
        self.captioning = (0.0, 0)  # of the test images, in the end
        self._mark: float | None = None

    def now(self) -> float:
        """The time at which the device has done what it was given."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def begin_epoch(self) -> None:
        self._mark = self.now()

    def pause(self) -> None:
        self._mark = None

    def end_step(self, images: int) -> None:
        now = self.now()
        self.first_step = self.first_step or age()
        if self._mark is not None:
            self.steps.append((now - self._mark, images))
        self._mark = now

    def write(self, file: Path) -> None:
        """Write it as JSON, with the peak memory so far."""
        figures = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        file.write_text(json.dumps({**figures, "peak_memory": peak_memory(self.device)}))


def run(*command: str, **environment: str) -> float:
    """Seconds from the start of a Python program to its end; if it fails, this one ends with its last words."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]  # for callbacks that are defined here
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment}
    began = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, *command],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ran.returncode:
        sys.exit(f"{command[0]} failed, with the settings {' '.join(command[1:])}:\n{ran.stderr[-3000:]}")
    return time.perf_counter() - began


def with_rounds(values: Sequence[float]) -> str:
    """The median, and what each round gave."""
    return f"{median(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"


def architecture(model: str) -> dict[str, Any]:
    """Of a choice of conf/model."""
    import yaml

    file = ROOT / "conf" / "model" / f"{model}.yaml"
    settings = yaml.safe_load(file.read_text()) if file.is_file() else {}
    if "architecture" not in settings:
        sys.exit(f"--model {model}: no file of conf/model with an architecture of its own; git-base and git-tiny are")
    return settings["architecture"]
