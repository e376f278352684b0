"""What the terminal shows when a run has ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from captioning.metrics.error_rates import nearest_first
from captioning.metrics.metric_info import METRIC_INFO
from captioning.metrics.scores import Scores
from captioning.runs.run_folder import Prediction
from captioning.terminal import plain, plain_console

NUMBERS = ("wer", "cer", "bleu4", "rouge_l", "cider", "exact_match", "unique_captions", "token_accuracy", "loss")
PLACES = {
    "the report": "report.html",
    "all numbers": "metrics.json",
    "all test captions": "predictions.jsonl",
    "the model": "model",
    "checkpoints": "checkpoints",
    "curves, by wandb leet": "wandb",
}


def print_summary(
    metrics: Mapping[str, Any],
    predictions: Sequence[Prediction],
    scores: Scores,
    folder: Path,
    *,
    split: str,
    captions_shown: int = 3,
) -> None:
    """The numbers of a split, its best and its worst captions beside their references, and where everything is."""
    step = f", with the checkpoint of step {metrics['tested_step']}" if "tested_step" in metrics else ""
    numbers = Table("number")
    numbers.add_column("value", justify="right")
    numbers.add_column("95 % interval", justify="right")
    for name in NUMBERS:
        interval = metrics.get(f"test/{name}_ci95")
        between = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
        numbers.add_row(METRIC_INFO[name].label, f"{metrics[f'test/{name}']:.4f}", between)
    console = plain_console()
    console.print(f"\n{len(predictions):,} images of the {split} split{step}:", numbers, sep="\n")
    worst_first = scores.worst_first()
    for which, indices in (("best", worst_first[::-1]), ("worst", worst_first)):
        captions = Table(show_lines=True)
        for column in ("image", f"generated ({which})", "nearest reference"):
            captions.add_column(column, overflow="fold")
        for index in indices[:captions_shown]:
            name, caption = predictions[index]["id"], predictions[index]["prediction"]
            nearest, *_ = nearest_first(caption, predictions[index]["references"])
            captions.add_row(*map(plain, (name, caption, nearest)))
        console.print(captions)
    for what, name in PLACES.items():
        if (folder / name).exists():
            console.print(f"{what:22}  {folder / name}", soft_wrap=True)  # a path that is cut can't be copied
