"""Prove the project on this machine's GPU, and measure it there: at most 8 minutes, and no network.

    make gpu                                            on a machine with a GPU
    make gpu ARGS="--device cpu --tiny"                 a rehearsal where there is none

Its parts run in order of worth, each in processes of its own and under a limit of its own. What a part prints is in
OUTPUT/NUMBER-NAME.txt line by line, so a run that is cut off leaves what was measured. The exit status is 1 if a part
failed; others run all the same.

Where the environment lacks packages, `make gpu-wheels` gathers them on another machine into build/gpu-wheels, from
which they are installed into build/gpu-packages: for CPython 3.12 with torch, lightning and transformers on Linux.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
WHEELS, PACKAGES = ROOT / "build" / "gpu-wheels", ROOT / "build" / "gpu-packages"
LEAST_SECONDS = 10.0  # that a part is begun with


class Part(NamedTuple):
    """A command, and the seconds that it may take."""

    name: str
    seconds: float
    command: list[str]


def main() -> None:
    """Run the parts and print what became of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model and numbers that a CPU is done with in minutes")
    parser.add_argument("--parts", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    arguments.output.mkdir(parents=True, exist_ok=True)
    is_bare = find_spec("hydra") is None
    if is_bare and WHEELS.is_dir() and not PACKAGES.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--target", str(PACKAGES), *map(str, sorted(WHEELS.glob("*.whl")))], check=True)
    parts = [part for part in make_parts(arguments) if not arguments.parts or part.name in arguments.parts]
    became, slowness = [], 4 if arguments.tiny else 1
    for number, part in enumerate(parts, 1):
        left = deadline - time.monotonic()
        if left < LEAST_SECONDS:
            became.append((part.name, "no time was left", 0.0))
            continue
        print(f"\n=== {part.name}: {' '.join(part.command)}", flush=True)
        began = time.monotonic()
        file = arguments.output / f"{number:02}-{part.name}.txt"
        status = run(part, file, min(part.seconds * slowness, left), packages=PACKAGES if is_bare else None)
        became.append((part.name, status, time.monotonic() - began))
    lines = [f"{name:12} {seconds:6.1f} s  {status}" for name, status, seconds in became]
    print("", *lines, sep="\n")
    (arguments.output / "00-parts.txt").write_text("\n".join(lines) + "\n")
    sys.exit(any(status != "done" for _, status, _ in became))


def make_parts(arguments: argparse.Namespace) -> list[Part]:
    """All parts, in order of worth."""
    device, tiny = arguments.device, arguments.tiny
    model = ["--model", "git-tiny" if tiny else "git-base"]
    rounds = ["--rounds", "1" if tiny else "3"]
    on_device = [*model, *rounds, "--device", device]
    images, side, epochs = ("12", "64", "2") if tiny else ("833", "1280", "50")
    job = [
        *("benchmarks/end_to_end.py", *model, "--images", images, "--side", side, "--device", device),
        *("--batch-size", "4" if tiny else "32", "--folder", str(arguments.output / "data"), "--precision", "bf16"),
    ]

    def step(size: int, *more: str) -> list[str]:
        # Few CPUs are fast at bf16.
        precision = "fp32" if device == "cpu" else "bf16"
        batch = "2" if tiny else str(size)
        return ["benchmarks/step.py", *on_device, "--precision", precision, "--batch-size", batch, *more]

    validation = ["--images", "60"] if tiny else ["--images", "833", "--batch-size", "64", "--workers", "8"]
    captions = ["benchmarks/captions.py", *on_device, "--batch-size", *(["2"] if tiny else ["1", "64"])]
    return [
        Part("machine", 40, ["-m", "torch.utils.collect_env"]),
        Part("tests", 150, ["-m", "pytest", "-v", "-n", "4", "--device", device, "tests/test_gpu.py"]),
        Part("step-32", 60, step(32)),
        Part("ours", 120, [*job, "--arms", "ours", "--epochs", epochs]),
        Part("captions", 60, captions),
        Part("tutorial", 120, [*job, "--arms", "tutorial", "--epochs", "1" if tiny else "3"]),
        Part("validation", 60, ["benchmarks/validation.py", *on_device, *validation]),
        Part("step-128", 60, step(128)),
        Part("compiled", 90, step(32, "--compile")),
    ]


def run(part: Part, file: Path, seconds: float, *, packages: Path | None) -> str:
    """Run a part, its output shown and written as it comes; what became of it."""
    paths = [ROOT / "src", ROOT / "tests", packages, os.environ.get("PYTHONPATH")]
    offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *part.command],
        cwd=ROOT,
        env={**os.environ, **offline, "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that all its processes end with it
    )
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.start()
    assert process.stdout is not None
    with file.open("wb", buffering=0) as output:
        for line in process.stdout:
            output.write(line)
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
    status = process.wait()
    timer.cancel()
    if is_late.is_set():
        return f"stopped after {seconds:.0f} s"
    return "done" if status == 0 else f"failed with exit status {status}"


if __name__ == "__main__":
    main()
