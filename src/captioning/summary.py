"""What the terminal shows when a run has ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from captioning.evaluation import Evaluation, Prediction
from captioning.report.numbers import MEANINGS
from captioning.terminal import plain, plain_console

NUMBERS = ("wer", "cer", "bleu4", "rouge_l", "cider", "exact_match", "unique_captions", "token_accuracy", "loss")
PLACES = {
    "all of this to look at": "report.html",
    "all numbers": "metrics.json",
    "all test captions": "predictions.jsonl",
    "the model": "model",
    "checkpoints": "checkpoints",
}


def print_summary(
    metrics: Mapping[str, Any], evaluation: Evaluation, folder: Path, *, split: str, captions_shown: int = 3
) -> None:
    """The numbers of a split, its best and its worst captions beside their references, and where everything is."""
    worst_first = evaluation.scores.worst_first()
    places = Table.grid(padding=(0, 2))
    places.add_column()
    places.add_column(overflow="fold")
    for what, name in PLACES.items():
        if (folder / name).exists():
            places.add_row(what, str(folder / name))
    if (folder / "wandb").exists():
        places.add_row("curves", f"wandb leet {folder / 'wandb'}")
    plain_console().print(
        f"\nTest on {len(evaluation.predictions)} pictures{'' if split == 'test' else f' (split {split})'}:",
        _numbers(metrics),
        _captions("best", [evaluation.predictions[index] for index in worst_first[::-1][:captions_shown]]),
        _captions("worst", [evaluation.predictions[index] for index in worst_first[:captions_shown]]),
        places,
        sep="\n",
    )


def _numbers(metrics: Mapping[str, Any]) -> Table:
    table = Table("number")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name in NUMBERS:
        interval = metrics.get(f"test/{name}_ci95")
        between = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
        table.add_row(MEANINGS[name].label, f"{metrics[f'test/{name}']:.4f}", between)
    return table


def _captions(which: str, predictions: Sequence[Prediction]) -> Table:
    table = Table(show_lines=True)
    for column in ("picture", f"generated ({which})", "reference"):
        table.add_column(column, overflow="fold")
    for prediction in predictions:
        table.add_row(*map(plain, (prediction["id"], prediction["prediction"], prediction["references"][0])))
    return table
