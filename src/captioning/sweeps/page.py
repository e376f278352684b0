"""``sweep.html``: the jobs of a sweep side by side, on one page that needs nothing beside it."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import quote

from captioning.files import write_text
from captioning.metrics.metric_info import METRIC_INFO
from captioning.runs.report.numbers import HEADLINES, duration
from captioning.runs.report.templates import render_template
from captioning.sweeps.captions import side_by_side
from captioning.sweeps.plots import scores_over
from captioning.sweeps.report import JobResult, SweepResults, is_number, short_names, value_text

MAX_SETTINGS = 10  # in the table and the plots; the rest is in --json


def write_sweep_page(sweep: SweepResults) -> Path:
    """Write ``sweep.html`` into the folder of a sweep, and return its path."""
    path = sweep.folder / "sweep.html"
    write_text(path, render_sweep(sweep))
    return path


def render_sweep(sweep: SweepResults) -> str:
    """The page; all that comes from the jobs is escaped."""
    settings, ranked = sweep.settings[:MAX_SETTINGS], sweep.ranked
    metric = sweep.monitor.partition("/")[2]
    tests = dict.fromkeys(
        name for name in (metric, *HEADLINES) if any(f"test/{name}" in job.metrics for job in sweep.jobs)
    )
    seconds = [job.seconds for job in sweep.jobs if job.seconds is not None]
    facts = {
        "Jobs": ", ".join(f"{count:,} {status}" for status, count in sweep.counts.items()),
        "Ranked by": f"{sweep.monitor}, {'higher' if sweep.higher_is_better else 'lower'} is better",
        "Varied": ", ".join(sweep.settings),
        "What matters, by Optuna": ", ".join(f"{key} {share:.0%}" for key, share in sweep.importance.items()),
        "Time of all jobs": duration(sum(seconds)) if seconds else "",
        "Folder": sweep.folder.resolve().name,
    }

    def link(job: JobResult, name: str) -> str | None:
        path = job.folder / name
        return quote(path.relative_to(sweep.folder).as_posix()) if path.is_file() else None

    def setting(job: JobResult, key: str) -> str:
        return value_text(job.settings[key]) if key in job.settings else "\N{EN DASH}"

    plots = {
        key: scores_over(key, [job.settings.get(key, "\N{EN DASH}") for job in ranked], ranked, monitor=sweep.monitor)
        for key in settings
        if len({str(job.settings.get(key)) for job in ranked}) > 1
    }
    commands = {}
    if sweep.command:
        commands["The sweep, or what is missing of it"] = shlex.join(sweep.command)
    if sweep.best and sweep.best.overrides:
        commands["The best job alone"] = shlex.join(["python", "train.py", *sweep.best.overrides])
    return render_template(
        "sweep.html",
        package="captioning.sweeps",
        styles=["style.css", "sweep.css"],
        scripts=["sortable.js", "sweep.js"],
        sweep=sweep,
        title=sweep.folder.resolve().name,
        facts={name: fact for name, fact in facts.items() if fact},
        metric=metric,
        names=short_names(settings),
        numeric={
            key for key in settings if all(is_number(job.settings[key]) for job in sweep.jobs if key in job.settings)
        },
        columns={name: METRIC_INFO[name].label if name in METRIC_INFO else name for name in tests},
        link=link,
        setting=setting,
        duration=duration,
        best_test=sweep.best.test_score(metric) if sweep.best else None,
        plots=plots,
        beside=side_by_side(ranked),
        commands=commands,
    )
