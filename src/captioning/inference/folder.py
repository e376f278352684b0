"""Captions for all images of folders, lists and patterns: what ``captioning caption`` does."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from captioning.errors import shown
from captioning.files import write_json_lines
from captioning.inference.captioner import Captioner, CaptionResult
from captioning.inference.outputs import Output
from captioning.terminal import quiet_transformers, tolerate_any_terminal

MAX_SHOWN = 20  # of the images that failed
NO_CAPTION = "the model's caption is empty; --min-new-tokens 2 makes one"


@dataclass
class Summary:
    """What became of the images."""

    total: int
    failed: dict[str, str]  # images without a caption, and why
    skipped: int = 0  # had a caption before
    captioned: int = 0


@dataclass(frozen=True)
class CaptionTemplate:
    """What is written around the captions of a model."""

    trigger: str = ""  # a word before each caption, with a comma
    suffix: str = ""

    def __call__(self, caption: str) -> str:
        """The text in one line; empty where the caption is."""
        text = " ".join(caption.split())
        return text and f"{self.trigger}{', ' if self.trigger else ''}{text}{self.suffix}"


def caption_images(
    model: str,
    images: Sequence[str],
    output: Output,
    summary: Summary,
    *,
    template: CaptionTemplate = CaptionTemplate(),
    overwrite: bool = False,
    device: str | None = None,
    **options: Any,
) -> None:
    """Caption all images that have no caption yet. Whatever ends it early, what was captioned is stored.

    ``summary`` is updated meanwhile; the options are those of :meth:`Captioner.stream`. Raises UserError.
    """
    tolerate_any_terminal()
    quiet_transformers()
    with output.open(overwrite=overwrite) as done:
        left = [image for image in images if image not in done]
        summary.skipped = len(images) - len(left)
        if left:
            stream = Captioner.from_pretrained(model, device=device).stream(left, **options)
            is_quiet = type(output) is Output and sys.stdout.isatty()
            for result in stream if is_quiet else with_progress(stream, len(left), summary):
                text = template(result.captions[0].text) if result.captions else ""
                try:
                    if not text:
                        raise ValueError(result.error or NO_CAPTION)
                    output.write({"path": result.image, "caption": text, "score": result.captions[0].score})
                    summary.captioned += 1
                except ValueError as error:
                    summary.failed[result.image] = str(error)
        output.finish()


def with_progress(stream: Iterator[CaptionResult], total: int, summary: Summary) -> Iterator[CaptionResult]:
    """The stream, with a bar on a terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task, began = progress.add_task("", total=total), time.monotonic()
        for number, result in enumerate(stream, 1):
            yield result
            failed = f" [red]{len(summary.failed):,} failed" if summary.failed else ""
            rate = f"{number / (time.monotonic() - began):,.1f} images/s"
            progress.update(task, completed=number, description=rate + failed)


def report(summary: Summary, output: Output, *, errors: Path | None = None, stopped_by: str = "") -> None:
    """Print the summary to standard error, and write all images that failed to ``errors`` as JSON Lines."""
    failed = summary.failed
    if errors is not None:
        write_json_lines(errors, ({"path": shown(path), "error": issue} for path, issue in failed.items()))
    for path, issue in islice(failed.items(), MAX_SHOWN):
        print(f"{shown(path)}: {issue}", file=sys.stderr)
    if len(failed) > MAX_SHOWN:
        print(f"{len(failed) - MAX_SHOWN:,} more failed: {errors or '--errors FILE lists all'}", file=sys.stderr)
    skipped = f", {summary.skipped:,} had a caption" if summary.skipped else ""
    line = f"{summary.captioned:,} images captioned, {len(failed):,} failed{skipped}: {output.name}"
    if stopped_by:
        left = summary.total - summary.skipped - summary.captioned - len(failed)
        line = f"stopped by {stopped_by}; {line}; the same command resumes with the {left:,} left"
    print(line, file=sys.stderr)
