"""What the terminal shows when a run has ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from captioning.metrics import Scores
from captioning.metrics.error_rates import nearest_first
from captioning.metrics.metric_info import METRIC_INFO
from captioning.runs.run_folder import Prediction
from captioning.terminal import plain, plain_console

NUMBERS = ("wer", "cer", "bleu4", "rouge_l", "cider", "exact_match", "unique_captions", "token_accuracy", "loss")
PLACES = {
    "all of this to look at": "report.html",
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
    worst_first = scores.worst_first()
    console = plain_console()
    step = f", with the checkpoint of step {metrics['tested_step']}" if "tested_step" in metrics else ""
    console.print(
        f"\n{len(predictions):,} images of the {split} split{step}:",
        _numbers(metrics),
        _captions("best", [predictions[index] for index in worst_first[::-1][:captions_shown]]),
        _captions("worst", [predictions[index] for index in worst_first[:captions_shown]]),
        sep="\n",
    )
    for what, name in PLACES.items():
        if (folder / name).exists():
            console.print(f"{what:22}  {folder / name}", soft_wrap=True)  # a path that is cut can't be copied


def _numbers(metrics: Mapping[str, Any]) -> Table:
    table = Table("number")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name in NUMBERS:
        interval = metrics.get(f"test/{name}_ci95")
        between = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
        table.add_row(METRIC_INFO[name].label, f"{metrics[f'test/{name}']:.4f}", between)
    return table


def _captions(which: str, predictions: Sequence[Prediction]) -> Table:
    table = Table(show_lines=True)
    for column in ("image", f"generated ({which})", "nearest reference"):
        table.add_column(column, overflow="fold")
    for prediction in predictions:
        nearest, *_ = nearest_first(prediction["prediction"], prediction["references"])
        table.add_row(*map(plain, (prediction["id"], prediction["prediction"], nearest)))
    return table
