"""What `captioning compare` prints: metrics, verdicts, settings and captions of runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from captioning.metrics.metric_info import HIGHER_IS_BETTER
from captioning.runs.comparison import ComparedRun, Comparison, Estimate
from captioning.terminal import plain, plain_console

ARROWS = {True: " ↑", False: " ↓", None: ""}
STYLES = {"better": "green", "worse": "red", "differs": "yellow"}
WIDE = 110  # columns that hold the metrics of two runs with their intervals beside them; in fewer they stand below


def print_comparison(comparison: Comparison) -> None:
    """Print a table for each run that is compared with the first, what differs between them, and captions."""
    console = plain_console()
    first, *others = comparison.runs
    left_out = ", ".join(f"{run.left_out} of run {run.name}" for run in comparison.runs)
    console.print(f"Test images that all runs have: {comparison.images}. Left out: {left_out}.")
    for run in others:
        console.print(f"Captions of run {run.name} that differ from run {first.name}'s: {run.changed_captions}.")
    for warning in comparison.warnings:
        console.print(f"warning: {warning}")
    for run in others:
        console.print()
        console.print(_metrics(first, run, " " if console.width >= WIDE else "\n"))
    console.print(
        f"\n[…] are 95 % bootstrap intervals and p is two-sided, from {comparison.resamples:,} resamples of the test "
        "images, the same for every run. They don't cover the variation between trainings: for that, train with "
        "several seeds. Where runs don't differ, about one verdict in twenty still finds a difference by chance."
    )
    for heading, rows in (("setting", comparison.settings), ("environment", comparison.environment)):
        if rows:
            table = _table(heading, *(run.name for run in comparison.runs))
            for key, values in rows.items():
                table.add_row(key, *(plain(value or "-") for value in values))
            console.print()
            console.print(table)
    for run in others:
        for kind, changes in (("improved", run.improved), ("worsened", run.worsened)):
            if changes:
                console.print(f"\nMost {kind} from run {first.name} to run {run.name}, by {comparison.metric}:")
            for change in changes:
                before, after = change.values
                grid = Table.grid(padding=(0, 2))
                grid.add_row("image", plain(f"{change.id} ({comparison.metric} {before:.3f} → {after:.3f})"))
                grid.add_row("reference", plain(change.reference))
                for name, caption in zip((first.name, run.name), change.captions, strict=True):
                    grid.add_row(name, plain(caption))
                console.print()
                console.print(grid)


def _metrics(first: ComparedRun, other: ComparedRun, space: str) -> Table:
    def cell(estimate: Estimate | None, sign: str = "") -> str:
        if estimate is None:
            return ""
        low_high = estimate.ci95
        between = f"{space}[{low_high[0]:{sign}.3f},{low_high[1]:{sign}.3f}]" if low_high else ""
        return f"{estimate.value:{sign}.3f}{between}"

    table = _table("test", first.name, other.name, "difference", "verdict", whole=("test", "difference"))
    sides = [
        run.numbers | {name: Estimate(value, None) for name, value in run.teacher_forced.items()}
        for run in (first, other)
    ]
    for name in sides[0] | sides[1]:
        difference, verdict = other.differences.get(name), Text()
        if difference:
            p = "" if difference.p is None else f", p={difference.p:.2g}"
            verdict = Text(difference.verdict + p, STYLES.get(difference.verdict, ""))
        label = name + ARROWS[HIGHER_IS_BETTER[name]]
        table.add_row(label, *(cell(side.get(name)) for side in sides), cell(difference, "+"), verdict)
    return table


def _table(*names: str, whole: Sequence[str] = ()) -> Table:
    """A table whose columns fold at the width of the terminal, except for those named in ``whole``."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name in whole)
    return table
