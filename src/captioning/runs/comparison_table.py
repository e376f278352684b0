"""What `captioning compare` prints: numbers, verdicts, settings and captions of runs side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain

from rich import box
from rich.table import Table
from rich.text import Text

from captioning.metrics import HIGHER_IS_BETTER
from captioning.runs.comparison import Change, Comparison, JudgedRun, Number
from captioning.terminal import plain, plain_console

ARROWS = {True: " ↑", False: " ↓", None: ""}
STYLES = {"better": "green", "worse": "red", "differs": "yellow"}
RUNS_ACROSS = 4  # so many numbers, their intervals below, fit into 80 columns
WIDE = 110  # so many columns hold the numbers of two runs, their intervals beside

Column = tuple[str, Mapping[str, "str | Text"]]  # a heading, and cells by the key of their row


def print_comparison(comparison: Comparison) -> None:
    """Print everything, in tables that fold at the width of the terminal."""
    console = plain_console()
    space = " " if console.width >= WIDE else "\n"
    numbers = chain(_numbers(comparison, space), [_note(comparison)])
    for part in chain(_head(comparison), numbers, _grounds(comparison), _captions(comparison)):
        if isinstance(part, Table):
            console.print()
        console.print(part)


def _head(comparison: Comparison) -> Iterator[str]:
    first, *others = comparison.runs
    left_out = ", ".join(f"{run.left_out} of run {run.name}" for run in comparison.runs)
    yield f"Test images that all runs have: {comparison.images}. Left out: {left_out}."
    for run in others:
        yield f"Captions of run {run.name} in other words than run {first.name}'s: {run.changed_captions}."
    yield from (f"warning: {warning}" for warning in comparison.warnings)


def _numbers(comparison: Comparison, space: str) -> Iterator[Table]:
    first, *others = comparison.runs
    names = dict.fromkeys(name for run in comparison.runs for name in (*run.numbers, *run.teacher_forced))
    labels = {name: name + ARROWS[HIGHER_IS_BETTER[name]] for name in names}
    values = [(run.name, _values(run, space)) for run in comparison.runs]
    if len(others) == 1:
        yield _table("test", labels, [*values, *_verdicts(others[0], space)], whole=("test", "difference"))
        return
    yield from _tables("test", labels, values)
    for run in others:
        judged = {name: labels[name] for name in run.differences}
        yield _table(f"run {run.name} against {first.name}", judged, _verdicts(run, " "))


def _values(run: JudgedRun, space: str) -> dict[str, str]:
    cells = {name: f"{number.value:.3f}{_interval(number, space)}" for name, number in run.numbers.items()}
    return cells | {name: f"{value:.3f}" for name, value in run.teacher_forced.items()}


def _verdicts(run: JudgedRun, space: str) -> list[Column]:
    differences, verdicts = {}, {}
    for name, difference in run.differences.items():
        differences[name] = f"{difference.value:+.3f}{_interval(difference, space, '+')}"
        p = "" if difference.p is None else f", p={difference.p:.2g}"
        verdicts[name] = Text(difference.verdict + p, STYLES.get(difference.verdict, ""))
    return [("difference", differences), ("verdict", verdicts)]


def _interval(number: Number, space: str, sign: str = "") -> str:
    if number.ci95 is None:
        return ""
    low, high = number.ci95
    return f"{space}[{low:{sign}.3f},{high:{sign}.3f}]"


def _note(comparison: Comparison) -> str:
    return (
        f"\n[…] are 95 % bootstrap intervals and p is two-sided, from {comparison.resamples:,} draws of images, the "
        "same for every run. They cover the choice of test images, not the chance of another training: for that, "
        "train several seeds. Where nothing differs, about one verdict in twenty still finds something by chance."
    )


def _grounds(comparison: Comparison) -> Iterator[Table]:
    for heading, rows in (("setting", comparison.settings), ("environment", comparison.environment)):
        columns = [
            (run.name, {key: plain(values[i] or "-") for key, values in rows.items()})
            for i, run in enumerate(comparison.runs)
        ]
        if rows:
            yield from _tables(heading, {key: key for key in rows}, columns)


def _tables(heading: str, labels: Mapping[str, str], columns: Sequence[Column]) -> Iterator[Table]:
    """A table with a column for each run, cut into several below each other where there are many runs."""
    for start in range(0, len(columns), RUNS_ACROSS):
        yield _table(heading, labels, columns[start : start + RUNS_ACROSS])


def _table(heading: str, labels: Mapping[str, str], columns: Sequence[Column], *, whole: Collection[str] = ()) -> Table:
    """A table with a row for each label; the columns named in ``whole`` are never folded."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for name in (heading, *(name for name, _ in columns)):
        table.add_column(name, overflow="fold", no_wrap=name in whole)
    for key, label in labels.items():
        table.add_row(label, *(cells.get(key) for _, cells in columns))
    return table


def _captions(comparison: Comparison) -> Iterator[str | Table]:
    first, *others = comparison.runs
    for run in others:
        for kind, changes in (("improved", run.improved), ("worsened", run.worsened)):
            if changes:
                yield f"\nMost {kind} from run {first.name} to run {run.name}, by {comparison.metric}:"
                yield _caption_grid(changes, (first.name, run.name), comparison.metric)


def _caption_grid(changes: list[Change], names: tuple[str, str], metric: str) -> Table:
    """Four lines for each image: which one and how much, its reference, and both captions."""
    grid = Table.grid(padding=(0, 2))
    for number, change in enumerate(changes):
        if number:
            grid.add_row()
        before, after = change.values
        for label, text in (
            ("image", f"{change.id} ({metric} {before:.3f} → {after:.3f})"),
            ("reference", change.reference),
            *zip(names, change.captions, strict=True),
        ):
            grid.add_row(label, plain(text))
    return grid
