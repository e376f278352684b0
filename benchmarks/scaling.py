"""What a second process adds to training, beside what this machine could give it at the most.

    python benchmarks/scaling.py                     git-base's size, random weights, a thread for each process
    python benchmarks/scaling.py --model git-tiny --batch-size 32 --steps 40

Each round trains once by one process, once by two that train together (DDP over gloo), and once by two that have
nothing to do with each other, at the same time: what these add up to is the machine's own ceiling, since cores share
memory and clock. Rates are those of `metrics.json`: images over the time between micro-batches, without validation.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="git-base", help="a choice of conf/model; its architecture is taken")
    parser.add_argument("--batch-size", type=int, default=4, help="of each process")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of a training")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    settings = [
        *(f"model={arguments.model}", "model.checkpoint=null", "data=creatures", "data.limit=400"),
        *(f"data.batch_size={arguments.batch_size}", f"trainer.max_steps={arguments.steps}", "trainer.max_epochs=-1"),
        *("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.limit_val_batches=0"),
        *("trainer.limit_test_batches=1", "model.max_new_tokens=2", "logger=none", "callbacks.gallery=null"),
        *("callbacks.checkpoint=null", "callbacks.last=null", "data.num_workers=0"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        rates([settings], Path(folder))  # draws the images and keeps their pixels
        rounds = [one_round(settings, Path(folder)) for _ in range(arguments.rounds)]
    table = Table("", "images/s", "times one process (each round)", title=f"{arguments.model}'s size, 1 thread each")
    names = ("one process", "two processes that train together", "two that train alone, together")
    for name, of_name in zip(names, zip(*rounds, strict=True), strict=True):
        times = [rate / one[0] for rate, one in zip(of_name, rounds, strict=True)]
        each = ", ".join(f"{time:.2f}" for time in times)
        table.add_row(name, f"{median(of_name):.2f}", f"{median(times):.2f} ({each})")
    Console(width=120).print(table)


def one_round(settings: list[str], folder: Path) -> tuple[float, float, float]:
    """Images a second: of one process, of two together, and of two alone at the same time."""
    one = [*settings, "trainer.devices=1"]
    return (
        sum(rates([one], folder)),
        sum(rates([[*settings, "trainer.devices=2"]], folder)),
        sum(rates([one, one], folder)),
    )


def rates(trainings: list[list[str]], folder: Path) -> list[float]:
    """Images a second of trainings that run at the same time."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    runs, processes = [], []
    for settings in trainings:
        run = Path(tempfile.mkdtemp(dir=folder))
        command = [sys.executable, str(ROOT / "train.py"), *settings, f"hydra.run.dir={run}"]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
        runs.append(run)
    if any(process.wait() for process in processes):
        sys.exit("a training failed, as it says above")
    return [json.loads((run / "metrics.json").read_text())["train/images_per_second"] for run in runs]


if __name__ == "__main__":
    main()
