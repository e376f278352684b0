"""How training scales: with images, with the batch, with the length of captions, and with processes.

    python benchmarks/growth.py                            git-tiny's size: ten minutes on two cores
    python benchmarks/growth.py --images 100 1000000 --batch-size --tokens --processes     one table, further

Each number is of `train.py` in a process of its own, for --steps optimizer steps. Images are JPEGs of 64 pixels,
noise, each with one caption of so many tokens. A first start reads, checks, compares and caches all of them; a second
one finds that in the cache. Both learn a tokenizer, and end with the first optimizer step. The rate is of the other
steps; memory is the most that the process had, or the first one of several. Each process has one thread: a small model
gains nothing from a second, and loses much where other work is on its core.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from measuring import ROOT, run
from PIL import Image
from rich.console import Console
from rich.table import Table

SIDE = 64
WORDS = [f"{a}{b}" for a in ("ba", "ko", "mi", "tu", "re", "so") for b in ("lan", "so", "ker", "pim", "vod", "ne")]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="git-tiny", help="a choice of conf/model; its architecture is taken")
    parser.add_argument("--images", type=int, nargs="*", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--batch-size", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--tokens", type=int, nargs="*", default=[8, 16, 32, 64], help="of each caption")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--steps", type=int, default=50, help="optimizer steps of each training")
    parser.add_argument("--usual", type=int, nargs=3, default=[1000, 16, 16], help="what isn't varied: these three")
    arguments = parser.parse_args()
    images, batch_size, tokens = arguments.usual
    if min(arguments.steps - 1, images, batch_size, tokens - 2, *(each - 2 for each in arguments.tokens)) < 1:
        parser.error("it takes 2 steps, an image, a batch of 1 and captions of 3 tokens (start, a word, end) at least")
    usual = {"images": images, "batch_size": batch_size, "tokens": tokens, "processes": 1}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="growth-") as folder:
        trainings = Trainings(Path(folder), arguments)
        for name in usual:
            if values := getattr(arguments, name):
                others = ", ".join(f"{each} {value:,}" for each, value in usual.items() if each != name)
                rows = [trainings.row({**usual, name: value}) for value in values]
                Console(width=120).print(table(name, values, rows, title=f"{arguments.model}'s size; {others}"))


def table(name: str, values: list[int], rows: list[list[str]], *, title: str) -> Table:
    """Of one thing that grows."""
    columns = ("first start", "second start", "images/s", "peak memory, first", "second")
    result = Table(name.replace("_", " "), title=title.replace("_", " "))
    for column in columns:
        result.add_column(column, justify="right")
    for value, row in zip(values, rows, strict=True):
        result.add_row(f"{value:,}", *row)
    return result


class Trainings:
    """Trainings in a folder that has all their data.

    Args:
        folder: to keep everything in.
        arguments: of the program: the model, and the steps.
    """

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder = folder
        self.arguments = arguments

    def row(self, sizes: dict[str, int]) -> list[str]:
        """Of the table: two trainings with the same data, of which the first finds nothing in the cache."""
        data = self.folder / f"{sizes['images']}-images-{sizes['tokens']}-tokens"
        if not data.is_dir():
            write_images(data, count=sizes["images"], tokens=sizes["tokens"])
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            first, second = (self.figures(data, sizes, cache) for _ in range(2))
        steps = second["steps"][1:]
        rate = sum(images for _, images in steps) / sum(seconds for seconds, _ in steps)
        return [
            *(f"{figures['first_step']:.1f} s" for figures in (first, second)),
            f"{rate:,.0f}",
            *(f"{figures['peak_memory'] / 1e6:,.0f} MB" for figures in (first, second)),
        ]

    def figures(self, data: Path, sizes: dict[str, int], cache: str) -> dict[str, Any]:
        """What the clock of a training wrote."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            command = (str(ROOT / "train.py"), *self.settings(data, sizes, Path(folder)))
            run(*command, CAPTIONING_CACHE=cache, OMP_NUM_THREADS="1")
            return json.loads(Path(folder, "figures.json").read_text())

    def settings(self, data: Path, sizes: dict[str, int], folder: Path) -> list[str]:
        """Of a training without validations and checkpoints."""
        return [
            *(f"model={self.arguments.model}", "model.checkpoint=null", "model.max_new_tokens=2"),
            *("data=local", f"data.path={data}", f"data.batch_size={sizes['batch_size']}"),
            *(f"trainer.max_steps={self.arguments.steps}", "trainer.max_epochs=-1", "trainer.limit_val_batches=0"),
            *("trainer.limit_test_batches=1", "trainer.accelerator=cpu", "trainer.precision=32-true"),
            *(f"trainer.devices={sizes['processes']}", "logger=none", f"hydra.run.dir={folder / 'run'}"),
            *("callbacks.gallery=null", "callbacks.checkpoint=null", "callbacks.last=null"),
            *("+callbacks.clock._target_=clock.Clock", f"+callbacks.clock.file={folder / 'figures.json'}"),
        ]


def write_images(folder: Path, *, count: int, tokens: int) -> None:
    """Noise of eight by eight colors, as JPEGs, and captions of words that a tokenizer learns whole."""
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w") as metadata:
        for number, (content, caption) in enumerate(pairs(count, tokens)):
            name = f"{number // 1000:03}/{number:06}.jpg"
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
            metadata.write(json.dumps({"file_name": name, "text": caption}) + "\n")


def pairs(count: int, tokens: int) -> Iterator[tuple[bytes, str]]:
    """Images, encoded, with their captions, which a start and an end are added to."""
    chance, noise = Random(0), np.random.default_rng(0)
    for _ in range(count):
        image = Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
        yield file.getvalue(), " ".join(chance.choices(WORDS, k=tokens - 2))


if __name__ == "__main__":
    main()
