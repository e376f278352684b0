"""What a validation costs beside generating its captions, and what it keeps in memory.

    python benchmarks/validation.py                     git-tiny's and git-base's size, random weights, drawn creatures
    python benchmarks/validation.py --model git-tiny
    python benchmarks/validation.py --model git-base --device cuda --batch-size 64 --images 833

Time: the same images are captioned twice in turn, once by generation alone (images in memory)
and once by a whole `Trainer.validate` (decoding files, loss, generation, every metric). Captions have exactly
--tokens tokens, since random weights would go on to the longest. Memory: the peak of a process that validates on 1,000
images, and of one on 10,000, with git-tiny; where --images isn't given.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import lightning as L
import torch
from measuring import architecture, of_this_process, with_rounds
from rich.console import Console
from rich.table import Table

from captioning import CaptionDataModule, CaptionModule
from captioning.data.creatures.dataset import creatures_folder
from captioning.data.transforms import normalize
from captioning.models.generation import generate_captions, prefill
from captioning.run import default_precision, setup_logging

SIZES = {"git-tiny": (64, 32, 480), "git-base": (224, 4, 24)}  # image side, batch, images


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, nargs="*", default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--images", type=int, help="by default 480 and 24")
    parser.add_argument("--batch-size", type=int, help="by default 32 and 4")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare batches")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    setup_logging()
    warnings.filterwarnings("ignore")
    if arguments.peak_of:
        _, whole = arms("git-tiny", arguments.peak_of, arguments)
        whole()
        print(of_this_process("VmHWM") / 2**20)
        return
    times = Table("model", "images", "generation alone, s", "validation, s", "ratio (each round)", title="time")
    for model in arguments.model:
        images = arguments.images or SIZES[model][2]
        rounds = paired(*arms(model, images, arguments), rounds=arguments.rounds)
        alone, whole = (median(seconds) for seconds in zip(*rounds, strict=True))
        ratios = with_rounds([b / a for a, b in rounds])
        times.add_row(model, str(images), f"{alone:.2f}", f"{whole:.2f}", ratios)
    Console().print(times)
    if arguments.images:
        return
    memory = Table("images", "peak of the process, MB", title="memory (git-tiny)")
    for images in (1000, 10_000):
        command = [sys.executable, __file__, "--peak-of", str(images)]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        memory.add_row(f"{images:,}", f"{float(ran.stdout.split()[-1]):,.0f}")
    Console().print(memory)


def arms(model: str, images: int, arguments: argparse.Namespace):
    """Two functions: captions for all images, and a validation on them."""
    size, batch_size, _ = SIZES[model]
    data = CaptionDataModule(
        path=str(creatures_folder(Path(tempfile.gettempdir(), "captioning-creatures"), count=images)),
        processor=None,
        image_size=size,
        batch_size=arguments.batch_size or batch_size,
        num_workers=arguments.workers,
    )
    data.set_eval_split("all")
    data.setup()
    decoding = {"max_new_tokens": arguments.tokens, "min_new_tokens": arguments.tokens}
    module = CaptionModule(checkpoint=None, architecture=architecture(model), **decoding)
    module.load(data.processor)
    trainer = L.Trainer(
        accelerator=arguments.device,
        devices=1,
        precision=default_precision(arguments.device),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = data.test_dataloader()
    tokenizer = data.processor.tokenizer
    batches = [batch["pixel_values"] for batch in loader] if images <= 1000 else []

    def generate() -> None:
        network = module.network.eval().to(arguments.device)  # a Trainer leaves it on the CPU
        with trainer.precision_plugin.forward_context():
            for pixel_values in batches:
                values = normalize(pixel_values.to(arguments.device), data.image_processor)
                generate_captions(network, tokenizer, prefill(network, values), module.decoding)

    def validate() -> None:
        trainer.validate(module, loader, verbose=False)

    return generate, validate


def paired(first, second, *, rounds: int) -> list[tuple[float, float]]:
    """Seconds of both in turn, after a round that isn't counted."""

    def seconds(function) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return [(seconds(first), seconds(second)) for _ in range(rounds + 1)][1:]


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
