"""How long images take from file to batch: at first, in later epochs, and in the check alone.

    python benchmarks/reading.py FOLDER          makes some 2 GB of JPEGs in FOLDER at first

First pass: 833 images of 1280 x 1280 are read, checked, resized and cached by `CaptionDataModule.setup`; beside it,
in turn, one core decodes and resizes them with PIL and does nothing else. Later epochs: all batches of an epoch, from
the cache, in the process itself. Check: 10,000 images of 500 x 375 without the cache, and the peak memory of a
process that checks them, and of one that checks a tenth of them.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measuring import of_this_process
from PIL import Image
from rich.console import Console
from rich.table import Table

from captioning import CaptionDataModule
from captioning.run import setup_logging

SIDE = 224
WORDS = [
    "a",
    "red",
    "green",
    "blue",
    "small",
    "large",
    "old",
    "new",
    "cat",
    "dog",
    "house",
    "tree",
    "river",
    "road",
    "boat",
    "bird",
    "on",
    "under",
    "by",
    "with",
    "the",
]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=833, help="images of 1280 x 1280")
    parser.add_argument("--small", type=int, default=10_000, help="images of 500 x 375")
    parser.add_argument("--check", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    small = arguments.folder / "500x375"
    if arguments.check:
        report_check(small, arguments.check)
        return
    setup_logging()
    large = arguments.folder / "1280x1280"
    make(large, arguments.large, (1280, 1280))
    make(small, arguments.small, (500, 375))
    Console().print(passes(large, rounds=arguments.rounds), checks(arguments.folder, arguments.small))


def passes(folder: Path, *, rounds: int) -> Table:
    """The table of first passes and later epochs."""
    table = Table("round", "plain, s", "first pass, s", "times as fast", "epoch, s", "of the first", "images/s")
    for number in range(1, rounds + 1):
        plain = timed(lambda: [decode_and_resize(path) for path in sorted(folder.glob("*.jpg"))])
        with tempfile.TemporaryDirectory() as cache:
            data = datamodule(folder, cache_dir=cache)
            first = timed(data.setup)
            epochs = epochs_of(data.train_dataloader(), 5)
            images = len(data.splits["train"])
        epoch = median(epochs) * sum(map(len, data.splits.values())) / images
        table.add_row(
            *(str(number), f"{plain:.2f}", f"{first:.2f}", f"{plain / first:.2f}"),
            *(f"{epoch:.3f}", f"{epoch / first:.2%}", f"{images / median(epochs):,.0f}"),
        )
    return table


def epochs_of(loader, count: int) -> list[float]:
    """How long the batches of each epoch take, in seconds."""
    return [timed(lambda: [None for _ in loader]) for _ in range(count)]


def checks(folder: Path, count: int) -> Table:
    """The table of checks, each in a process of its own."""
    table = Table("images", "check, s", "peak of the process, MB")
    for some in (count // 10, count):
        command = [sys.executable, __file__, str(folder), "--check", str(some)]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seconds, peak = map(float, ran.stdout.split()[-2:])
        table.add_row(f"{some:,}", f"{seconds:.1f}", f"{peak:,.0f}")
    return table


def report_check(folder: Path, count: int) -> None:
    """Print seconds and megabytes of a check."""
    with tempfile.TemporaryDirectory() as cache:
        data = datamodule(folder, cache_dir=cache, limit=count, cache=False)
        seconds = timed(data.inspect)
    print(seconds, of_this_process("VmHWM") / 2**20)


def datamodule(folder: Path, **settings: object) -> CaptionDataModule:
    """The images of a folder, for git-base's size."""
    return CaptionDataModule(path=str(folder), processor=None, image_size=SIDE, num_workers=0, **settings)


def decode_and_resize(path: Path) -> Image.Image:
    """What an image costs at the least."""
    return Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def timed(work) -> float:
    """How many seconds it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Smooth noise with grain, about as large as a photograph when compressed, and three captions for each."""
    if len(list(folder.glob("*.jpg"))) == count:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(make_one, repeat(folder), range(count), repeat(size), chunksize=32))
    (folder / "metadata.jsonl").write_text("".join(captions(count)))


def make_one(folder: Path, number: int, size: tuple[int, int]) -> None:
    """One of the images."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.integers(-12, 13, (size[1], size[0], 1))
    image = Image.fromarray((np.asarray(coarse, np.int16) + grain).clip(0, 255).astype(np.uint8))
    image.save(folder / f"{number:05}.jpg", quality=85)


def captions(count: int) -> Iterator[str]:
    """The lines of ``metadata.jsonl``."""
    rng = np.random.default_rng(0)
    for number in range(count):
        texts = [" ".join(rng.choice(WORDS, 10)) for _ in range(3)]
        yield json.dumps({"file_name": f"{number:05}.jpg", "text": texts}) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
