"""Captions for a folder of JPEGs, beside the model alone on tensors, and beside a plain loop.

    python benchmarks/caption_folder.py FOLDER                  500 images of 640 x 480, made there; git-base's size
    python benchmarks/caption_folder.py FOLDER --device cuda --images 20000

Three arms caption a part of the images in turn, in every round another part, greedily, in captions of exactly
--tokens tokens: files to rows of JSONL as ``captioning caption`` makes them; the model alone, with pixels in memory, in
batches of the same size; and a loop of transformers' processor and ``generate``, image by image, over a fifth of
them. Weights are random. At the end the whole command, with its start.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from measuring import architecture, run, with_rounds
from PIL import Image
from reading import make
from rich.console import Console
from rich.table import Table

from captioning.inference.captioner import Captioner
from captioning.inference.outputs import CaptionFile
from captioning.models.loading import init_model
from captioning.models.processor import make_processor
from captioning.runs import run_folder

OF_THE_LOOP = 5  # it captions one of this many


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="git-base", help="a choice of conf/model; its architecture is taken")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--side", type=int, default=640, help="pixels, of the longer one")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--tokens", type=int, default=12, help="of each caption")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = arguments.folder / f"{arguments.images}-of-{arguments.side}"
    make(folder, arguments.images, (arguments.side, arguments.side * 3 // 4))
    with tempfile.TemporaryDirectory() as scratch:
        rounds, whole = measure(arguments, sorted(map(str, folder.glob("*.jpg"))), Path(scratch))
    table = Table("arm", "captions/s (each round)", "times as fast is the first arm (each round)")
    ours = [rates[0] for rates in rounds]
    for number, arm in enumerate(("files to JSONL", "the model alone", "a plain loop")):
        rates = [each[number] for each in rounds]
        table.add_row(arm, with_rounds(rates), with_rounds([a / b for a, b in zip(ours, rates, strict=True)]))
    Console(width=140).print(table)
    print(f"the whole command: {arguments.images / whole:.2f} captions/s, {whole:.1f} s")


def measure(
    arguments: argparse.Namespace, files: Sequence[str], scratch: Path
) -> tuple[list[tuple[float, ...]], float]:
    """Captions a second of the arms in each round, and the seconds of the command."""
    settings = architecture(arguments.model)
    size = settings["vision_config"]["image_size"]
    torch.manual_seed(0)
    processor = make_processor(["a red square on a blue ground"], image_size=size, max_caption_tokens=32)
    network = init_model(settings, processor=processor)
    run_folder.write_model(scratch / "model", network=network, processor=processor)
    plain = transformers.AutoModelForCausalLM.from_pretrained(scratch / "model").eval().to(arguments.device)
    plain_processor = transformers.AutoProcessor.from_pretrained(scratch / "model", backend="pil")
    captioner = Captioner.from_pretrained(scratch / "model", device=arguments.device, dtype=torch.float32)
    batch_size = arguments.batch_size or captioner.batch_size
    length = {"max_new_tokens": arguments.tokens, "min_new_tokens": arguments.tokens}

    def to_a_file(part: Sequence[str]) -> None:
        rows = CaptionFile(scratch / "captions.jsonl", "jsonl")
        with rows.open(overwrite=True):
            for captioned in captioner.stream(part, batch_size=batch_size, **length):
                best = captioned.captions[0]
                rows.write({"path": captioned.image, "caption": best.text, "score": best.score})

    def alone(pixels: torch.Tensor) -> None:
        for batch in pixels.split(batch_size):
            captioner.caption_pixels(batch, captioner.settings(**length))

    def loop(part: Sequence[str]) -> None:
        for file in part:
            values = plain_processor(images=Image.open(file).convert("RGB"), return_tensors="pt").pixel_values
            ids = plain.generate(pixel_values=values.to(arguments.device), do_sample=False, **length)
            plain_processor.batch_decode(ids, skip_special_tokens=True)

    to_a_file(files[:batch_size])  # the first of all is slow
    rounds = []
    for number in range(arguments.rounds):
        part = files[number :: arguments.rounds]
        pixels = torch.stack([captioner.prepare(file) for file in part])
        some = part[::OF_THE_LOOP]
        rounds.append(
            (
                len(part) / seconds(to_a_file, part),
                len(part) / seconds(alone, pixels),
                len(some) / seconds(loop, some),
            )
        )
    options = [word for name, value in length.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    options += ["--device", arguments.device, "--batch-size", str(batch_size)]
    options += ["--prefix", "a red"]  # or the caption may be empty, since weights are random
    command = Path(sys.executable).with_name("captioning")
    whole = run(
        str(command), "caption", str(scratch / "model"), str(Path(files[0]).parent), "-o", f"{scratch}/a.csv", *options
    )
    return rounds, whole


def seconds(work, given) -> float:
    """How long it takes."""
    began = time.perf_counter()
    with torch.inference_mode():
        work(given)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
