"""What it saves to encode an image once for all of its captions.

    python benchmarks/packing.py                    git-base's size, random weights, 2 images with 5 captions each
    python benchmarks/packing.py --captions 1 2 5 10

Time: the loss and its gradients for all captions of the same images, in turn packed (one pass) and separately (a pass
for the first caption of every image, a pass for the second, and so on), with dropout as in training. Gradients:
those of both without dropout, compared parameter by parameter: the norm of the difference over the norm of the
gradient. The biases of attention's keys have no gradient (they add the same to all scores that a softmax compares),
only its rounding, and are held against the gradient of the query's bias beside them.
"""

import argparse
import random
import time
from statistics import median

import torch
from measuring import architecture, with_rounds
from rich.console import Console
from rich.table import Table

from captioning.data.packing import pack
from captioning.models.loading import init_model
from captioning.models.loss import caption_loss
from captioning.models.processor import make_processor
from captioning.run import setup_logging

WORDS = [f"{a}{b}" for a in ("ba", "ko", "mi", "tu", "re") for b in ("lan", "so", "ker", "pim", "vod")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--captions", type=int, nargs="*", default=[5], help="of each image")
    parser.add_argument("--tokens", type=int, default=12, help="of a caption, about, with its start and end")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    setup_logging()
    processor = make_processor(WORDS, image_size=224, max_caption_tokens=40)
    model = init_model(architecture("git-base"), processor=processor)
    table = Table(
        "captions each", "separately", "packed", "ratio (each round)", "gradients differ by", title="git-base"
    )
    for captions in arguments.captions:
        packed, separately = arms(
            model, processor.tokenizer, images=arguments.images, captions=captions, tokens=arguments.tokens
        )
        difference = largest_difference(model, packed, separately)
        rounds = [(seconds(model, separately), seconds(model, packed)) for _ in range(arguments.rounds + 1)][1:]
        slow, fast = (arguments.images * captions / median(each) for each in zip(*rounds, strict=True))
        ratios = with_rounds([a / b for a, b in rounds])
        table.add_row(
            str(captions),
            f"{slow:.2f} captions/s",
            f"{fast:.2f} captions/s",
            ratios,
            f"{difference:.1e}",
        )
    Console(width=120).print(table)


def arms(model, tokenizer, *, images: int, captions: int, tokens: int):
    """Two functions that add the gradients of all captions to the model's: in one pass, and in a pass for each."""
    chance = random.Random(0)
    texts = [
        [" ".join(chance.choices(WORDS, k=tokens - 2 + chance.randint(-3, 3))) for _ in range(captions)]
        for _ in range(images)
    ]
    pixel_values = torch.randn(images, 3, 224, 224)
    of_all = {"tokenizer": tokenizer, "max_caption_tokens": 40, "is_padding": [False] * images}
    batch = pack(texts, **of_all)
    passes = [pack([[captions[number]] for captions in texts], **of_all) for number in range(captions)]
    for one in passes:
        del one["position_ids"], one["caption_index"]

    def packed() -> None:
        caption_loss(model, pixel_values=pixel_values, **batch).loss.backward()

    def separately() -> None:
        for one in passes:
            caption_loss(model, pixel_values=pixel_values, **one).loss.backward()

    return packed, separately


def seconds(model, arm) -> float:
    """Of an arm as in training."""
    model.train()
    model.zero_grad()
    start = time.perf_counter()
    arm()
    return time.perf_counter() - start


def largest_difference(model, packed, separately) -> float:
    """Between the gradients of two arms, relative, over all parameters."""
    model.eval()
    gradients = []
    for arm in (packed, separately):
        model.zero_grad()
        arm()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    one, other = gradients
    assert one.keys() == other.keys()
    return max(((one[name] - other[name]).norm() / other[scale_of(name)].norm()).item() for name in other)


def scale_of(name: str) -> str:
    """The parameter whose gradient says how large a difference in that of ``name`` is."""
    return name.replace("key.bias", "query.bias").replace("k_proj.bias", "q_proj.bias")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
