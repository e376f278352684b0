"""Captions per second, beside transformers' plain ``generate`` on the same weights and images.

    python benchmarks/captions.py                       git-base's size, random weights
    python benchmarks/captions.py --device cuda --batch-size 1 16 64

Both arms begin with pixel values in memory and end with token numbers, in float32, in turn; medians. Captions are of
exactly so many tokens, so that both do the same work; they are held against each other, too.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import transformers
from measuring import architecture
from rich.console import Console
from rich.table import Table

from captioning.models.decoding import Decoding
from captioning.models.generation import prefill
from captioning.models.git import GitForCausalLM


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="git-base", help="a choice of conf/model; its architecture is taken")
    parser.add_argument("--batch-size", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--beams", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--tokens", type=int, default=12, help="of each caption")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    config = transformers.GitConfig(**architecture(arguments.model))
    torch.manual_seed(0)
    plain = transformers.GitForCausalLM(config).eval().to(arguments.device)
    ours = GitForCausalLM(config).eval().to(arguments.device)
    ours.load_state_dict(plain.state_dict())
    title = f"{arguments.model}'s size, {arguments.tokens} tokens, {arguments.device}"
    table = Table("images at a time", "beams", "plain generate", "ours", "ratio (each round)", "same", title=title)
    for beams in arguments.beams:
        for images in arguments.batch_size:
            size = config.vision_config.image_size
            pixel_values = torch.randn(images, 3, size, size).to(arguments.device)
            length = {"max_new_tokens": arguments.tokens, "min_new_tokens": arguments.tokens}
            decoding = Decoding(num_beams=beams, **length)
            table.add_row(str(images), str(beams), *compare(plain, ours, pixel_values, decoding, arguments.rounds))
    Console(width=120).print(table)


@torch.inference_mode()
def compare(
    plain: transformers.GitForCausalLM,
    ours: GitForCausalLM,
    pixel_values: torch.Tensor,
    decoding: Decoding,
    rounds: int,
) -> list[str]:
    """Of the table, for a number of images and beams."""

    def theirs_once() -> torch.Tensor:
        return plain.generate(pixel_values=pixel_values, **decoding.arguments())

    def ours_once() -> torch.Tensor:
        cache = prefill(ours, pixel_values)
        start = torch.full((len(pixel_values), 1), ours.generation_config.bos_token_id, device=pixel_values.device)
        return ours.generate(
            input_ids=start, attention_mask=torch.ones_like(start), past_key_values=cache, **decoding.arguments()
        )

    same = torch.equal(theirs_once(), ours_once())
    times = [(seconds(theirs_once), seconds(ours_once)) for _ in range(rounds)]
    slow, fast = (len(pixel_values) / median(each) for each in zip(*times, strict=True))
    ratios = ", ".join(f"{theirs / our:.2f}" for theirs, our in times)
    return [
        f"{slow:.2f} captions/s",
        f"{fast:.2f} captions/s",
        f"{fast / slow:.2f} ({ratios})",
        "yes" if same else "no",
    ]


def seconds(work: Callable[[], torch.Tensor]) -> float:
    """That it takes until its result is there."""
    began = time.perf_counter()
    work().cpu()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
