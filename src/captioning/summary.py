"""What the terminal shows when a run has ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from captioning.callbacks.predictions import Prediction

TEST_NUMBERS = {
    "test/wer": "word error rate",
    "test/cer": "character error rate",
    "test/token_accuracy": "next-token accuracy",
    "test/loss": "loss (nats per token)",
}


def print_summary(
    metrics: Mapping[str, float], predictions: Sequence[Prediction], folder: Path, *, captions_shown: int = 5
) -> None:
    """The test numbers, a few test captions beside their references, and where everything is."""
    console = Console()
    numbers = Table()
    numbers.add_column("number")
    numbers.add_column("value", justify="right")
    for key, name in TEST_NUMBERS.items():
        if key in metrics:
            numbers.add_row(name, f"{metrics[key]:.4f}")
    captions = Table(show_lines=True)
    for column in ("picture", "generated", "reference"):
        captions.add_column(column, overflow="fold")
    for prediction in predictions[:captions_shown]:
        captions.add_row(prediction["id"], prediction["prediction"], prediction["references"][0])
    places = Table.grid(padding=(0, 2))
    for what, name in (
        ("numbers", "metrics.json"),
        ("all test captions", "predictions.jsonl"),
        ("the model", "model"),
        ("checkpoints", "checkpoints"),
    ):
        if (folder / name).exists():
            places.add_row(what, str(folder / name))
    if (folder / "wandb").exists():
        places.add_row("curves", f"wandb leet {folder / 'wandb'}")
    console.print("\n[bold]Test[/bold], on pictures that the model never saw:", numbers, captions, places, sep="\n")
