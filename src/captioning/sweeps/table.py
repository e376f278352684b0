"""What ``captioning sweep-report`` prints: the jobs of a sweep, best first."""

from __future__ import annotations

from datetime import timedelta

from rich import box
from rich.table import Column, Table
from rich.text import Text

from captioning.runs.report.numbers import shown
from captioning.sweeps.report import FAILED, FINISHED, SweepResults, short_names, value_text
from captioning.terminal import plain, plain_console

STYLES = {FINISHED: "green", FAILED: "red"}


def print_sweep(sweep: SweepResults) -> None:
    """Print the table of jobs, what is known of those without a score, and the best one."""
    console = plain_console()
    counts = ", ".join(f"{count} {status}" for status, count in sweep.counts.items())
    better = "higher" if sweep.higher_is_better else "lower"
    console.print(f"{len(sweep.jobs)} jobs ({counts}), ranked by {sweep.monitor}, {better} is better")
    for note in sweep.notes:
        console.print(f"note: {plain(note)}")
    metric, names = sweep.monitor.partition("/")[2], short_names(sweep.settings)
    texts = [Column(plain(heading), overflow="fold") for heading in ("job", *names.values())]
    numbers = [Column(heading, justify="right", no_wrap=True) for heading in (sweep.monitor, f"test {metric}", "time")]
    table = Table(*texts, *numbers, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for job in sweep.jobs:
        values = [value_text(job.settings[key]) if key in job.settings else "-" for key in names]
        score = Text(job.status, STYLES.get(job.status, "yellow")) if job.score is None else shown(job.score)
        test = job.test_score(metric)
        interval = f" [{shown(test.interval[0])}, {shown(test.interval[1])}]" if test and test.interval else ""
        tested = shown(test.value) + interval if test else "-"
        time = "-" if job.seconds is None else str(timedelta(seconds=round(job.seconds)))
        style = "bold" if job is sweep.best else ""
        table.add_row(plain(job.name), *map(plain, values), score, tested, time, style=style)
    console.print(table)
    for job in sweep.jobs:
        if job.note:
            console.print(plain(f"job {job.name}: {job.status}, {job.note}"), soft_wrap=True)
    if sweep.importance:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in sweep.importance.items())
        console.print(plain(f"\nWhat matters, by Optuna: {shares}"), soft_wrap=True)
    if sweep.best:
        console.print(f"\nThe best is job {plain(sweep.best.name)}: {sweep.best.folder}", soft_wrap=True)
