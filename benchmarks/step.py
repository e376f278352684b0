"""A training step beside the tutorial's, and beside what the machine can multiply.

    python benchmarks/step.py                            git-base's size, random weights, 4 images
    python benchmarks/step.py --device cuda --batch-size 32

The tutorial's step: captions padded to 512 tokens that count in the loss, logits for every position of image and
text, transformers' own GIT, and mixed precision where the other arm has it (bf16 for the tutorial's fp16, in which CPUs
don't train). Both arms: forward, backward, clipping and AdamW, on tensors that are in memory, in turn; medians.

The share of the limit: the step's model FLOPs (captioning.models.flops) by its time, over the rate of a layer's plain
matrix products, forward and backward, in the same precision and with as many rows.
"""

import argparse
import gc
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.queues import Queue
from statistics import median

import torch
import transformers
from measuring import architecture, of_this_process, peak_memory, with_rounds
from rich.console import Console
from rich.table import Table

from captioning.models.flops import training_flops
from captioning.models.git import GitForCausalLM
from captioning.models.loading import compile_layers
from captioning.models.loss import IGNORE_INDEX, caption_loss

PADDED = 512  # or as many positions as the model has
Step = Callable[[], None]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="git-base", help="a choice of conf/model; its architecture is taken")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=15, help="of a caption, with its start and end")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="*", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="our layers, as model.compile=true does")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    title = f"{arguments.model}'s size, {arguments.batch_size} images, {arguments.tokens} tokens, {arguments.device}"
    title += ", ours compiled" * arguments.compile
    names = ("precision", "tutorial's", "ours", "ratio (each round)", "share of matmul's rate", "memory")
    table = Table(*names, title=title)
    for precision in arguments.precision:
        table.add_row(precision, *row(arguments, precision))
    Console(width=140).print(table)


def row(arguments: argparse.Namespace, precision: str) -> list[str]:
    """Of the table, for a precision."""
    tutorial, ours = (Arm(name, arguments, precision) for name in ("tutorial", "ours"))
    rounds = [(tutorial.seconds(), ours.seconds()) for _ in range(arguments.rounds + 1)][1:]
    slow, fast = (median(each) for each in zip(*rounds, strict=True))
    rate = matmul_rate(arguments, precision)
    operations = training_flops(ours.model, images=arguments.batch_size, tokens=arguments.tokens)
    share = operations / fast / rate
    peaks = [in_a_process(memory_of_steps, name, arguments, precision) for name in ("tutorial", "ours")]
    return [
        f"{slow / arguments.batch_size:.3f} s/image",
        f"{fast / arguments.batch_size:.3f} s/image",
        with_rounds([a / b for a, b in rounds]),
        f"{share:.0%} of {rate / 1e9:,.0f} GFLOP/s",
        f"{peaks[0] / 1e6:,.0f} MB, {peaks[1] / 1e6:,.0f} MB",
    ]


class Arm:
    """A model with its optimizer and a batch."""

    def __init__(self, name: str, arguments: argparse.Namespace, precision: str) -> None:
        self.device = torch.device(arguments.device)
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")
        config = transformers.GitConfig(**architecture(arguments.model))
        torch.manual_seed(0)
        shape = (arguments.batch_size, arguments.tokens)
        ids = torch.randint(5, config.vocab_size, shape)
        mask = torch.ones_like(ids)
        size = config.vision_config.image_size
        pixel_values = torch.randn(arguments.batch_size, 3, size, size)
        if name == "tutorial":
            self.model = transformers.GitForCausalLM(config).train()
            more = (0, min(PADDED, config.max_position_embeddings) - arguments.tokens)
            ids, mask = torch.nn.functional.pad(ids, more), torch.nn.functional.pad(mask, more)
            batch = {"input_ids": ids, "attention_mask": mask, "labels": ids, "pixel_values": pixel_values}
            self.loss = lambda: self.model(**self.batch).loss
        else:
            self.model = GitForCausalLM(config).train()
            if arguments.compile:
                compile_layers(self.model)
            labels = ids.masked_fill(mask == 0, IGNORE_INDEX)
            batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pixel_values}
            self.loss = lambda: caption_loss(self.model, **self.batch).loss / ids.numel()
        self.model.to(self.device)
        self.batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        # Each as its training has it: transformers.Trainer, too, takes the fused one.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def step(self) -> None:
        """One optimizer step."""
        with self.autocast:
            loss = self.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def seconds(self) -> float:
        """Of a step."""
        return clocked(self.step, self.device)


def matmul_rate(arguments: argparse.Namespace, precision: str) -> float:
    """Floating-point operations a second of a layer's products: forward, and backward to its input and its weight."""
    device, dtype = torch.device(arguments.device), torch.bfloat16 if precision == "bf16" else torch.float32
    rows = arguments.batch_size * (197 + arguments.tokens)
    x, weight = torch.randn(rows, 768, device=device, dtype=dtype), torch.randn(3072, 768, device=device, dtype=dtype)
    gradient = torch.randn(rows, 3072, device=device, dtype=dtype)
    repeats = 10

    def products() -> None:
        for _ in range(repeats):
            torch.mm(x, weight.T)
            torch.mm(gradient, weight)
            torch.mm(gradient.T, x)

    times = [clocked(products, device) for _ in range(6)]
    return repeats * 3 * 2 * rows * 768 * 3072 / median(times[1:])


def clocked(work: Callable[[], None], device: torch.device) -> float:
    """Seconds that it takes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def memory_of_steps(answer: "Queue[int]", name: str, arguments: argparse.Namespace, precision: str) -> None:
    """The most bytes of two steps, above what the process had before the first: gradients, moments, activations."""
    arm = Arm(name, arguments, precision)
    before = torch.cuda.memory_allocated() if arm.device.type == "cuda" else of_this_process("VmRSS")
    arm.step()
    arm.step()
    answer.put(peak_memory(arm.device.type) - before)


def in_a_process(work: Callable[..., None], *arguments: object) -> int:
    """What ``work`` answers, in a process of its own."""
    context = get_context("spawn")
    answer: Queue[int] = context.Queue()
    process = context.Process(target=work, args=(answer, *arguments))
    process.start()
    result = answer.get()
    process.join()
    return result


if __name__ == "__main__":
    main()
