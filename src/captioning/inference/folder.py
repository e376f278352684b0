"""Captions for all images of folders, lists and patterns: what ``captioning caption`` does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from captioning.errors import shown
from captioning.files import write_json_lines
from captioning.inference.captioner import Captioner, CaptionResult
from captioning.inference.inputs import Inputs
from captioning.inference.outputs import Output, Row, StandardOutput
from captioning.inference.pretrained import find_model
from captioning.terminal import quiet_transformers, tolerate_any_terminal
from captioning.training.signals import INTERRUPTED, Interrupted, handle_signals

MAX_SHOWN = 20  # of the images that failed
NO_CAPTION = "the model says nothing of it; --min-new-tokens makes it"


@dataclass
class Counts:
    """What came of the images.

    Args:
        images: how many there are.
        skipped: how many had a caption before.
        failed: those that have none, and why.
        captioned: how many have one since.
        signal: the name of the one that ended the work early.
    """

    images: int
    skipped: int
    failed: dict[str, str]
    captioned: int = 0
    signal: str = ""

    def add(self, image: str, why: str | None) -> None:
        """Count an image that has a caption now, or none, and why."""
        if why is None:
            self.captioned += 1
        else:
            self.failed[image] = why


@dataclass(frozen=True)
class CaptionTemplate:
    """What is written around the captions of a model.

    Args:
        trigger: a word before each caption, with a comma.
        suffix: what comes after each.
    """

    trigger: str = ""
    suffix: str = ""

    def __call__(self, caption: str) -> str:
        """The text in one line; empty where the caption is."""
        text = " ".join(caption.split())
        return text and f"{self.trigger}{', ' if self.trigger else ''}{text}{self.suffix}"


def caption(
    model: str,
    inputs: Inputs,
    output: Output,
    *,
    wording: CaptionTemplate = CaptionTemplate(),
    overwrite: bool = False,
    device: str | None = None,
    **options: Any,
) -> Counts:
    """Caption all images that have no caption yet.

    Args:
        model: as for :meth:`Captioner.from_pretrained`.
        inputs: the images.
        output: where captions go.
        wording: what is written around them.
        overwrite: whether all get a new caption.
        device: as for the Captioner.
        **options: as for :meth:`Captioner.stream`.

    Raises:
        UserError: there is no such model, a wrong setting, or captions can't be written there.
        OSError: the disk is full, or the like.
    """
    tolerate_any_terminal()
    quiet_transformers()
    find_model(model)  # before what is slow
    with handle_signals(), output.reserved():
        done = set() if overwrite else output.done()
        left = [image for image in inputs.images if image not in done]
        counts = Counts(len(inputs.images), len(inputs.images) - len(left), dict(inputs.failed))
        try:
            if left:
                stream = Captioner.from_pretrained(model, device=device).stream(left, **options)
                if overwrite:
                    output.clear()
                for captioned in _with_progress(stream, counts, output):
                    counts.add(captioned.image, _write(captioned, output, wording))
            output.finish()
        except Interrupted as interrupted:
            counts.signal = str(interrupted)
    return counts


def _write(captioned: CaptionResult, output: Output, wording: CaptionTemplate) -> str | None:
    """Why the image has no caption; None: it has."""
    if captioned.error is not None:
        return captioned.error
    best = captioned.captions[0]
    text = wording(best.text)
    if not text:
        return NO_CAPTION
    try:
        output.write(Row(captioned.image, text, best.score))
    except ValueError as error:
        return str(error)
    return None


def _with_progress(stream: Iterator[CaptionResult], counts: Counts, output: Output) -> Iterator[CaptionResult]:
    """The stream, with a bar on a terminal where nothing else is written meanwhile."""
    console = Console(stderr=True)
    is_quiet = not console.is_terminal or (isinstance(output, StandardOutput) and sys.stdout.isatty())
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=is_quiet, transient=True) as progress:
        task = progress.add_task("", total=counts.images - counts.skipped)
        for captioned in stream:
            yield captioned
            failed = f"[red]{len(counts.failed):,} failed" if counts.failed else ""
            progress.update(task, advance=1, description=failed)


class _Rate(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} images/s")


def tell(counts: Counts, output: Output, *, errors: Path | None = None) -> int:
    """Say on standard error what came of the images.

    Args:
        counts: of the images.
        output: where the captions are.
        errors: a JSONL file for all that failed, with ``path`` and ``error``.

    Returns:
        The exit status: 0 where all have a caption, 2 where some failed, 75 where the work was ended early.
    """
    if errors is not None:
        write_json_lines(errors, ({"path": shown(path), "error": why} for path, why in counts.failed.items()))
    for path, why in islice(counts.failed.items(), MAX_SHOWN):
        print(f"{shown(path)}: {why}", file=sys.stderr)
    if len(counts.failed) > MAX_SHOWN:
        others = f"{len(counts.failed) - MAX_SHOWN:,} more failed"
        print(f"{others}: {errors}" if errors else f"{others}; --errors FILE tells all", file=sys.stderr)
    skipped = f", {counts.skipped:,} had a caption" if counts.skipped else ""
    what = f"{counts.captioned:,} images captioned, {len(counts.failed):,} failed{skipped}: {output.name}"
    if counts.signal:
        left = counts.images - counts.skipped - counts.captioned - len(counts.failed)
        print(f"stopped by {counts.signal}; {what}; the same command goes on with the {left:,} left", file=sys.stderr)
        return INTERRUPTED
    print(what, file=sys.stderr)
    return 2 if counts.failed else 0
