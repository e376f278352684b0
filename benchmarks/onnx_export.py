"""What a run's captions lose in ONNX and in 8 bits, and what it gains: numbers, size and speed.

    python benchmarks/onnx_export.py outputs/DATE/TIME IMAGES

IMAGES is the folder that the run was trained on; its test images are captioned greedily by torch, by ONNX, and by
ONNX with weights of 8 bits, in batches of 8 files. Intervals are 95 % bootstraps over images.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from captioning import Captioner
from captioning.export.caption_onnx import OnnxCaptioner
from captioning.export.huggingface import export
from captioning.metrics import score

BATCH = 8
Caption = Callable[[list[Path]], list[str]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in (arguments.run / "predictions.jsonl").read_text().splitlines()]
    files = [arguments.images / row["id"] for row in rows]
    references = [row["references"] for row in rows]
    table = Table("", "files", "CIDEr-D [95 %]", "WER", "same captions", "captions/s (each round)")
    table.title = f"{len(files)} test images"
    with tempfile.TemporaryDirectory() as scratch:
        expected: list[str] = []
        for name, size, caption in arms(arguments.run, Path(scratch)):
            captions, rates = timed(caption, files, arguments.rounds)
            expected = expected or captions
            scores = score(captions, references)
            low, high = scores.intervals()["cider"]
            table.add_row(
                name,
                f"{size / 1e6:.1f} MB",
                f"{scores.values()['cider']:.3f} [{low:.3f}, {high:.3f}]",
                f"{scores.values()['wer']:.4f}",
                f"{sum(a == b for a, b in zip(captions, expected, strict=True))} of {len(captions)}",
                f"{median(rates):.0f} ({', '.join(f'{rate:.0f}' for rate in rates)})",
            )
    Console(width=120).print(table)


def arms(run: Path, scratch: Path) -> Iterator[tuple[str, int, Caption]]:
    """Names, bytes of the model's files, and what captions a batch of files."""
    captioner = Captioner.from_pretrained(run, device="cpu")
    weights = (run / "model" / "model.safetensors").stat().st_size
    yield "torch", weights, lambda batch: captioner(batch, num_beams=1)  # type: ignore[return-value]
    for name, int8 in (("onnx", False), ("onnx, 8 bits", True)):
        folder = scratch / f"int8-{int8}"
        export(str(run), folder, samples=0, form="onnx", int8=int8)
        yield name, sum(file.stat().st_size for file in folder.glob("*.onnx")), OnnxCaptioner(folder)


def timed(caption: Caption, files: list[Path], rounds: int) -> tuple[list[str], list[float]]:
    """The captions, and files per second of each round, images opened and resized in the same time."""
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        captions = [one for start in range(0, len(files), BATCH) for one in caption(files[start : start + BATCH])]
        rates.append(len(files) / (time.perf_counter() - began))
    return captions, rates


if __name__ == "__main__":
    main()
