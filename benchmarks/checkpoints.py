"""What a checkpoint costs a training, and how long it takes to go on from one.

    python benchmarks/checkpoints.py                    git-base's size: eight minutes on two cores, 8 GB of disk
    python benchmarks/checkpoints.py --model git-tiny --batch-size 32 --steps 330 --every 80

The cost: one training, saved every so many steps. Each save lengthens the step in which it begins (the copy) and some
after it (the writing, in the background): what three quarters of the steps until the next one took beyond the median of
the last quarter is its cost. The first is dearer: its copy is in memory that the system has to give first.

The start: `python train.py` by the clock, from the command to the end of its first new step, in turn from a checkpoint
folder of Hugging Face's form (a fresh start) and from the run's own newest checkpoint (`resume=RUN`).
"""

import argparse
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
from measuring import ROOT, run, with_rounds
from rich.console import Console
from rich.table import Table

TRAIN = str(ROOT / "train.py")


class Clock(L.Callback):
    """Writes down when each step ended.

    Args:
        file: to write to.
        stop_after: steps after which the process ends there and then; None: it doesn't.
    """

    def __init__(self, *, file: str, stop_after: int | None = None) -> None:
        self.file = Path(file)
        self.stop_after = stop_after
        self.steps = 0

    def on_train_batch_start(self, *_: Any) -> None:  # when all of the last batch's callbacks are done
        with self.file.open("a") as file:
            file.write(f"{time.time()}\n")

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps += 1
        if self.steps == self.stop_after:
            self.file.write_text(str(time.time()))
            os._exit(0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="git-base", help="a choice of conf/model; its architecture is taken")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=66, help="of the training in which checkpoints are saved")
    parser.add_argument("--every", type=int, default=16, help="steps between them")
    parser.add_argument("--rounds", type=int, default=3, help="of starts")
    arguments = parser.parse_args()
    settings = [
        *(
            f"model={arguments.model}",
            "data=creatures",
            "data.limit=400",
            f"data.batch_size={arguments.batch_size}",
        ),
        *("trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true", "trainer.max_epochs=-1"),
        *("trainer.limit_val_batches=0", "trainer.limit_test_batches=1", "model.max_new_tokens=2", "logger=none"),
        *("callbacks.gallery=null", "callbacks.checkpoint=null", "trainer.enable_progress_bar=false"),
        *("callbacks.last.every_n_minutes=null", "+callbacks.clock._target_=checkpoints.Clock"),
    ]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        saved = Path(folder, "run")
        run(
            *(TRAIN, *settings, "model.checkpoint=null", f"callbacks.last.every_n_steps={arguments.every}"),
            *(f"trainer.max_steps={arguments.steps}", f"hydra.run.dir={saved}", f"+callbacks.clock.file={saved}-steps"),
        )
        usual, costs = cost_of_checkpoints(Path(f"{saved}-steps"), every=arguments.every)
        size = (saved / "checkpoints" / "last.ckpt").stat().st_size
        fresh = [*settings, f"model.checkpoint={saved / 'model'}", "trainer.max_steps=100"]
        starts = [
            (start(fresh, folder), start([f"resume={saved}", "trainer.max_steps=100"], folder))
            for _ in range(arguments.rounds)
        ]
    table = Table("", title=f"{arguments.model}'s size, {size / 1e6:,.0f} MB a checkpoint")
    table.add_column("", justify="right")
    table.add_row("a step", f"{usual:.3f} s")
    table.add_row("a checkpoint costs, s", with_rounds(costs))
    table.add_row("of 50 steps", f"{median(costs) / (50 * usual):.2%}")
    for name, each in zip(
        ("a fresh start to the end of its first step", "resumed"), zip(*starts, strict=True), strict=True
    ):
        table.add_row(name, f"{median(each):.1f} s ({', '.join(f'{seconds:.1f}' for seconds in each)})")
    ratios = [resumed / began for began, resumed in starts]
    table.add_row("ratio", with_rounds(ratios))
    Console(width=120).print(table)


def cost_of_checkpoints(file: Path, *, every: int) -> tuple[float, list[float]]:
    """Seconds of a usual step, and those that each checkpoint adds to the steps after it."""
    times = [float(line) for line in file.read_text().split()]
    steps = [after - before for before, after in pairwise(times)]
    # Between starts of batches: the checkpoint after step k is in the k-th interval, and its writing in those after.
    touched = every * 3 // 4
    usual = median(step for index, step in enumerate(steps[every - 1 :]) if index % every >= touched)
    return usual, [
        sum(steps[first : first + touched]) - touched * usual for first in range(every - 1, len(steps) - touched, every)
    ]


def start(settings: list[str], folder: str) -> float:
    """Seconds from the command to the end of its first step."""
    end = Path(folder, "end")
    fresh = [] if settings[0].startswith("resume=") else [f"hydra.run.dir={folder}/fresh", "trainer.max_steps=100"]
    began = time.time()
    run(TRAIN, *settings, *fresh, f"++callbacks.clock.file={end}", "++callbacks.clock.stop_after=1")
    return float(end.read_text().split()[-1]) - began


if __name__ == "__main__":
    main()
