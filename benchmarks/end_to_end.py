"""From images on the disk to captions and numbers: train.py beside the tutorial as it stands (`tutorial.py`).

    python benchmarks/end_to_end.py                        git-base's size: half an hour on two cores, 12 GB of disk
    python benchmarks/end_to_end.py --precision fp32 --arms ours
    python benchmarks/end_to_end.py --device cuda --images 400 --batch-size 32

Drawn creatures of 1280 x 1280 as JPEGs, each with one caption, and a checkpoint of random weights are made first; both
arms load that checkpoint. They train on the same number of images, with the same batch size, accumulation, learning
rate and schedule, judge a tenth as many after each epoch, and caption so many in the end, up to 50 tokens. Each runs in
a process of its own, in turn. Nothing is in a cache but the files themselves: each run has an empty CAPTIONING_CACHE
or HF_DATASETS_CACHE of its own, and what it takes to fill that is in its time.

Ours does more at each evaluation: it generates a caption for each image and computes all numbers, where the tutorial
decodes the likeliest token at each position. Ours tests on images that it didn't choose the checkpoint by, and writes
a report; the tutorial captions its validation images. Random weights say captions to the longest, in both.

bf16 is ours in bf16-mixed, beside the tutorial's own fp16=True, which a CPU computes in 32 bits (see `tutorial.py`).

End to end: images trained on, over the time from the command to the end of the process. Training: those of optimizer
steps over their time, the reading of images in it, evaluation and saving not. Memory: the most that the process had;
on a GPU, that its tensors took there.

--device cuda needs one GPU and no network: the project's own wheels, with the build of torch that PyPI has for Linux or
another for CUDA, the nvidia and triton wheels that this build names, and accelerate with psutil (extra `benchmarks`).
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

from measuring import ROOT, architecture, run, with_rounds
from rich.console import Console
from rich.table import Table

ACCUMULATION = 2  # the tutorial's
PRECISIONS = {"fp32": ("fp32", "32-true"), "bf16": ("fp16", "bf16-mixed")}  # as each arm calls it
Figures = dict[str, Any]  # what a Record writes, and the seconds of the whole


class Row(NamedTuple):
    """A figure in the table."""

    name: str
    unit: str
    of: Callable[[Figures], float]
    more_is_better: bool = True


def rate(parts: list[tuple[float, int]]) -> float:
    """Images a second."""
    return sum(images for _, images in parts) / sum(seconds for seconds, _ in parts)


ROWS = (
    Row("end to end", "images/s", lambda figures: figures["trained"] / figures["seconds"]),
    Row("training alone", "images/s", lambda figures: rate(figures["steps"])),
    Row("evaluation alone", "images/s", lambda figures: rate(figures["evaluations"])),
    Row("captions in the end", "images/s", lambda figures: rate([figures["captioning"]])),
    Row("from command to end", "s", lambda figures: figures["seconds"], more_is_better=False),
    Row("to the end of the first step", "s", lambda figures: figures["first_step"], more_is_better=False),
    Row("peak memory", "MB", lambda figures: figures["peak_memory"] / 1e6, more_is_better=False),
)


def main() -> None:
    """Print a table for each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="git-base", help="a choice of conf/model; its architecture is taken")
    parser.add_argument("--images", type=int, default=40, help="of which a tenth is judged")
    parser.add_argument("--side", type=int, default=1280, help="of the images, in pixels")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--precision", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where images and checkpoint stay for the next time")
    parser.add_argument("--json", type=Path, help="a file for all figures of each round")
    arguments = parser.parse_args()
    if min(arguments.images - 1, arguments.epochs, arguments.batch_size, arguments.rounds) < 1:
        parser.error("--images must be at least 2, and --epochs, --batch-size and --rounds 1")
    size = architecture(arguments.model)
    all_figures = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="end-to-end-") as scratch:
        made = (arguments.folder or Path(scratch)).absolute()
        data = made / f"creatures-{arguments.images}-{arguments.side}"
        checkpoint = made / f"checkpoint-{arguments.model}-{arguments.images}"  # it knows these captions' words
        make_images(data, arguments.images, arguments.side)
        make_checkpoint(checkpoint, size, data)
        for precision in arguments.precision:
            rounds = [
                one_round(arguments, precision, data, checkpoint, Path(scratch), number)
                for number in range(arguments.rounds)
            ]
            Console(width=120).print(table(arguments, precision, rounds))
            all_figures[precision] = rounds
    if arguments.json:
        arguments.json.write_text(json.dumps(all_figures, indent=1))


def one_round(
    arguments: argparse.Namespace, precision: str, data: Path, checkpoint: Path, scratch: Path, number: int
) -> dict[str, Figures]:
    """The figures of each arm; who begins changes from round to round."""
    figures = {}
    for arm in arguments.arms[:: -1 if number % 2 else 1]:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            caches = {"CAPTIONING_CACHE": f"{folder}/cache", "HF_DATASETS_CACHE": f"{folder}/datasets"}
            command = ARMS[arm](arguments, precision, data, checkpoint, Path(folder, "run"))
            seconds = run(*command, **caches, HF_HUB_OFFLINE="1")
            measured = json.loads(Path(folder, "run", "figures.json").read_text())
            trained = arguments.epochs * trained_images(arguments.images)
            figures[arm] = {**measured, "seconds": seconds, "trained": trained}
    return figures


def tutorial(arguments: argparse.Namespace, precision: str, data: Path, checkpoint: Path, folder: Path) -> list[str]:
    """The command of the tutorial."""
    micro_batches = math.ceil(trained_images(arguments.images) / arguments.batch_size)
    return [
        *(str(ROOT / "benchmarks" / "tutorial.py"), str(checkpoint), str(data / "seen"), str(folder)),
        *("--epochs", str(arguments.epochs), "--batch-size", str(arguments.batch_size)),
        *("--every", str(math.ceil(micro_batches / ACCUMULATION)), "--device", arguments.device),
        *("--precision", PRECISIONS[precision][0]),
    ]


def ours(arguments: argparse.Namespace, precision: str, data: Path, checkpoint: Path, folder: Path) -> list[str]:
    """The command of this project."""
    return [
        *(str(ROOT / "train.py"), f"model={arguments.model}", f"model.checkpoint={checkpoint}"),
        *("data=local", f"data.path={data}", f"data.batch_size={arguments.batch_size}"),
        *("model.lr=0.00005", "model.weight_decay=0.0", "model.warmup_fraction=0.0", "model.lr_schedule=linear"),
        *(f"trainer.max_epochs={arguments.epochs}", f"trainer.accumulate_grad_batches={ACCUMULATION}"),
        *(f"trainer.precision={PRECISIONS[precision][1]}", "model.max_new_tokens=49"),
        *(f"trainer.accelerator={arguments.device}", "trainer.devices=1", "logger=none", f"hydra.run.dir={folder}"),
        *("+callbacks.clock._target_=clock.Clock", f"+callbacks.clock.file={folder / 'figures.json'}"),
    ]


ARMS = {"tutorial": tutorial, "ours": ours}


def table(arguments: argparse.Namespace, precision: str, rounds: list[dict[str, Figures]]) -> Table:
    """Medians over rounds, and how many times better ours was in each of them."""
    trained = trained_images(arguments.images)
    title = f"{arguments.model}'s size, {precision}, {arguments.epochs} epochs of {trained} images, {arguments.device}"
    both = len(arguments.arms) == len(ARMS)
    result = Table("", *arguments.arms, *(["times better (each round)"] if both else []), title=title)
    for row in ROWS:
        values = {arm: [row.of(figures[arm]) for figures in rounds] for arm in arguments.arms}
        cells = [f"{median(each):,.2f} {row.unit}" for each in values.values()]
        if both:
            better, worse = ("ours", "tutorial") if row.more_is_better else ("tutorial", "ours")
            cells.append(with_rounds([a / b for a, b in zip(values[better], values[worse], strict=True)]))
        result.add_row(row.name, *cells)
    return result


# ------------------------------------------------------------ what both arms begin with


def judged_images(images: int) -> int:
    """How many of them `train_test_split` keeps apart."""
    return math.ceil(0.1 * images)


def trained_images(images: int) -> int:
    """How many of them are left."""
    return images - judged_images(images)


def make_images(folder: Path, count: int, side: int) -> None:
    """So many images in ``seen``, of which a part is for validation, and as many as that in ``unseen`` for our test.

    The tutorial cuts its own tenth off ``seen``, by chance, and knows nothing of the rest.
    """
    judged = judged_images(count)
    splits = ["train"] * (count - judged) + ["val"] * judged
    for name, numbers, given in (
        ("seen", range(count), splits),
        ("unseen", range(count, count + judged), ["test"] * judged),
    ):
        metadata = folder / name / "metadata.jsonl"
        if metadata.is_file():
            continue
        metadata.parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool:
            captions = list(pool.map(make_image, repeat(metadata.parent), numbers, repeat(side)))
        lines = [
            {"file_name": f"{number:06}.jpg", "text": caption, "split": split}
            for number, caption, split in zip(numbers, captions, given, strict=True)
        ]
        metadata.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_image(folder: Path, number: int, side: int) -> str:
    """Draw a creature; its caption."""
    from captioning.data.creatures.dataset import captions_of, sample_creature
    from captioning.data.creatures.drawing import draw_creature

    chance = Random(number)
    creature = sample_creature(chance)
    draw_creature(creature, side, chance).save(folder / f"{number:06}.jpg", quality=90)
    return chance.choice(captions_of(creature))


def make_checkpoint(folder: Path, settings: dict[str, Any], data: Path) -> None:
    """Random weights, with the processor of a model from scratch that pads as far as the published one does."""
    if folder.is_dir():
        return
    import torch
    import transformers

    from captioning.models.loading import init_model
    from captioning.models.processor import make_processor
    from captioning.runs import run_folder

    transformers.logging.disable_progress_bar()
    lines = (data / "seen" / "metadata.jsonl").read_text().splitlines()
    processor = make_processor(
        [json.loads(line)["text"] for line in lines],
        image_size=settings["vision_config"]["image_size"],
        max_caption_tokens=min(512, settings["max_position_embeddings"]),
    )
    torch.manual_seed(0)
    run_folder.write_model(folder, network=init_model(settings, processor=processor), processor=processor)


if __name__ == "__main__":
    main()
