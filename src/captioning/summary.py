"""What the terminal shows when a run has ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from captioning.evaluation import Evaluation, Prediction

TEST_NUMBERS = {
    "wer": "word error rate",
    "cer": "character error rate",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr-D",
    "exact_match": "exact match",
    "unique_captions": "unique captions",
    "token_accuracy": "next-token accuracy",
    "loss": "loss (nats per token)",
}
PLACES = {
    "all of this to look at": "report.html",
    "all numbers": "metrics.json",
    "all test captions": "predictions.jsonl",
    "the model": "model",
    "checkpoints": "checkpoints",
}


def print_summary(metrics: Mapping[str, Any], evaluation: Evaluation, folder: Path, *, captions_shown: int = 3) -> None:
    """The test numbers, the best and the worst captions beside their references, and where everything is."""
    worst_first = evaluation.worst_first()
    places = Table.grid(padding=(0, 2))
    places.add_column()
    places.add_column(overflow="fold")
    for what, name in PLACES.items():
        if (folder / name).exists():
            places.add_row(what, str(folder / name))
    if (folder / "wandb").exists():
        places.add_row("curves", f"wandb leet {folder / 'wandb'}")
    Console(markup=False, emoji=False, highlight=False).print(
        f"\nTest on {len(evaluation.predictions)} pictures:",
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
    for key, name in TEST_NUMBERS.items():
        if f"test/{key}" in metrics:
            interval = metrics.get(f"test/{key}_ci95")
            between = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
            table.add_row(name, f"{metrics[f'test/{key}']:.4f}", between)
    return table


def _captions(which: str, predictions: Sequence[Prediction]) -> Table:
    table = Table(show_lines=True)
    for column in ("picture", f"generated ({which})", "reference"):
        table.add_column(column, overflow="fold")
    for prediction in predictions:
        table.add_row(prediction["id"], prediction["prediction"], prediction["references"][0])
    return table
