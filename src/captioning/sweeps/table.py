"""What `captioning sweep-report` prints: the jobs of a sweep, the best first, and which settings matter."""

from __future__ import annotations

from datetime import timedelta

from rich import box
from rich.table import Table
from rich.text import Text

from captioning.runs.report.numbers import finite, shown
from captioning.sweeps.folder import FAILED, FINISHED
from captioning.sweeps.importance import METHOD
from captioning.sweeps.report import Job, Sweep, short_names, value_text
from captioning.terminal import plain, plain_console

MOST_JOBS, MOST_SETTINGS = 40, 5
WIDE = 110  # so many columns hold intervals too
STYLES = {FINISHED: "green", FAILED: "red"}


def print_sweep(sweep: Sweep) -> None:
    """Print the table of jobs, what is known of those without a number, and the importance of settings."""
    console = plain_console()
    counts = ", ".join(f"{count} {status}" for status, count in sweep.counts.items())
    better = "higher" if sweep.higher_is_better else "lower"
    console.print(f"{len(sweep.jobs)} jobs ({counts}), ranked by {sweep.monitor}, {better} is better")
    for note in sweep.notes:
        console.print(f"note: {plain(note)}")
    console.print(_jobs(sweep, wide=console.width >= WIDE))
    if len(sweep.settings) > MOST_SETTINGS:
        console.print(f"{len(sweep.settings) - MOST_SETTINGS} more settings vary than there is room for")
    if len(sweep.jobs) > MOST_JOBS:
        console.print(f"and {len(sweep.jobs) - MOST_JOBS} more in sweep.html")
    for job in sweep.jobs:
        if job.why:
            console.print(plain(f"job {job.name}: {job.status}, {job.why}"), soft_wrap=True)
    if sweep.importance:
        console.print(f"\nWhat matters: {METHOD}")
    for one in sweep.importance:
        console.print(plain(f"  {one.setting}: {one.words}"))
    if sweep.equals:
        console.print(f"\nWith the best job's {sweep.monitor}: {plain(', '.join(job.name for job in sweep.equals))}")
    if sweep.best:
        console.print(f"\nThe best is job {plain(sweep.best.name)}: {sweep.best.folder}", soft_wrap=True)


def _jobs(sweep: Sweep, *, wide: bool) -> Table:
    metric = sweep.monitor.partition("/")[2]
    names, best = short_names(sweep.settings), sweep.best
    settings = sweep.settings[:MOST_SETTINGS]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for heading in ("job", *(plain(names[key]) for key in settings)):
        table.add_column(heading, overflow="fold")
    for heading in (sweep.monitor, f"test {metric}", "time"):
        table.add_column(plain(heading), justify="right", no_wrap=True)
    for job in sweep.jobs[:MOST_JOBS]:
        values = [value_text(job.settings[key]) if key in job.settings else "-" for key in settings]
        score = Text(job.status, STYLES.get(job.status, "yellow")) if job.score is None else shown(job.score)
        test = _test(job, metric, with_interval=wide)
        time = "-" if job.seconds is None else str(timedelta(seconds=round(job.seconds)))
        style = "bold" if job is best else ""
        table.add_row(plain(job.name), *map(plain, values), score, test, time, style=style)
    return table


def _test(job: Job, metric: str, *, with_interval: bool) -> str:
    value, interval = finite(job.metrics.get(f"test/{metric}")), job.metrics.get(f"test/{metric}_ci95")
    if value is None:
        return "-"
    return shown(value) + (f" [{shown(interval[0])}, {shown(interval[1])}]" if interval and with_interval else "")
