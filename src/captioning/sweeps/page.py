"""``sweep.html``: the jobs of a sweep beside each other, on one page that needs nothing beside it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from captioning.files import write_text
from captioning.metrics.metric_info import METRIC_INFO
from captioning.runs.report.numbers import HEADLINES, duration, finite
from captioning.runs.report.plots import Plot
from captioning.runs.report.templates import render_template
from captioning.sweeps.captions import side_by_side
from captioning.sweeps.folder import FINISHED
from captioning.sweeps.importance import METHOD, Importance, as_number
from captioning.sweeps.parallel import Parallel, parallel
from captioning.sweeps.plots import scores_over
from captioning.sweeps.report import Job, Sweep, short_names, value_text

MOST_SETTINGS = 10  # in the table and the plots; the rest is in --json


def write_sweep_page(sweep: Sweep) -> Path:
    """Write ``sweep.html`` into the folder of a sweep, and return its path."""
    path = sweep.folder / "sweep.html"
    write_text(path, render_sweep(sweep))
    return path


def render_sweep(sweep: Sweep) -> str:
    """The page. What comes from the jobs is escaped; only plots, style and scripts are taken as they are."""
    shown_settings = _shown_settings(sweep)
    names = short_names(shown_settings)
    compared = [one.setting for one in sweep.importance]  # the others have one value in all jobs with a number
    metric = sweep.monitor.partition("/")[2]
    tests = _test_numbers(sweep, metric)
    return render_template(
        "sweep.html",
        package="captioning.sweeps",
        styles=["style.css", "sweep.css"],
        scripts=["sortable.js", "sweep.js"],
        sweep=sweep,
        title=sweep.folder.resolve().name,
        facts=_facts(sweep),
        metric=metric,
        names=names,
        numeric={key for key in names if _is_numeric(sweep, key)},
        hidden_settings=len(sweep.settings) - len(shown_settings),
        columns={name: METRIC_INFO[name].label if name in METRIC_INFO else name for name in tests},
        rows=[_row(place, job, sweep, shown_settings, tests) for place, job in enumerate(sweep.jobs, start=1)],
        best_test=_test(sweep.best, metric) if sweep.best else None,
        plot=_parallel(sweep, {key: names[key] for key in names if key in compared}),
        importance=[_setting(one, sweep) for one in sweep.importance if one.setting in names],
        method=METHOD,
        beside=side_by_side(sweep),
        commands=_commands(sweep),
    )


def _shown_settings(sweep: Sweep) -> list[str]:
    """The settings that there is room for: of many the most important ones, in their own order."""
    if len(sweep.settings) <= MOST_SETTINGS:
        return sweep.settings
    first = list(dict.fromkeys([*(one.setting for one in sweep.importance), *sweep.settings]))[:MOST_SETTINGS]
    return [name for name in sweep.settings if name in first]


def _facts(sweep: Sweep) -> dict[str, str]:
    counts = ", ".join(f"{count:,} {status}" for status, count in sweep.counts.items())
    seconds = [job.seconds for job in sweep.jobs if job.seconds is not None]
    sweeper = (sweep.sweeper or "").rpartition(".")[2]
    facts = {
        "Jobs": counts,
        "Ranked by": f"{sweep.monitor}, {'higher' if sweep.higher_is_better else 'lower'} is better",
        "Varied": ", ".join(sweep.settings),
        "Values chosen by": "a grid" if sweeper == "BasicSweeper" else sweeper,
        "Time of all jobs": duration(sum(seconds)) if seconds else "",
        "Folder": sweep.folder.resolve().name,
    }
    return {name: fact for name, fact in facts.items() if fact}


def _test_numbers(sweep: Sweep, metric: str) -> list[str]:
    """The test numbers that any job has: the monitored one, then those that say most."""
    names = dict.fromkeys((metric, *HEADLINES))
    return [name for name in names if any(f"test/{name}" in job.metrics for job in sweep.jobs)]


def _is_numeric(sweep: Sweep, key: str) -> bool:
    return all(as_number(job.settings[key]) is not None for job in sweep.jobs if key in job.settings)


class Measured(NamedTuple):
    """A test number with its 95 % interval."""

    value: float
    interval: tuple[float, float] | None


def _test(job: Job, name: str) -> Measured | None:
    value, interval = finite(job.metrics.get(f"test/{name}")), job.metrics.get(f"test/{name}_ci95")
    return None if value is None else Measured(value, (interval[0], interval[1]) if interval else None)


class Row(NamedTuple):
    """A job in the table. ``link`` and ``log`` are its report and, unless it finished, its log, where there is one."""

    job: Job
    place: int | None
    link: str | None
    log: str | None
    settings: list[tuple[str, str]]  # what is shown, and what is sorted by
    tests: list[Measured | None]
    duration: str


def _row(place: int, job: Job, sweep: Sweep, settings: list[str], tests: list[str]) -> Row:
    return Row(
        job=job,
        place=place if job.score is not None else None,
        link=_link(job.report, sweep),
        log=_link(job.folder / "job.log", sweep) if job.status != FINISHED else None,
        settings=[_cell(job, key) for key in settings],
        tests=[_test(job, name) for name in tests],
        duration=duration(job.seconds),
    )


def _link(path: Path | None, sweep: Sweep) -> str | None:
    """A file as seen from the page; None where there is none."""
    return quote(path.relative_to(sweep.folder).as_posix()) if path and path.is_file() else None


def _cell(job: Job, key: str) -> tuple[str, str]:
    if key not in job.settings:
        return "\N{EN DASH}", ""
    value = job.settings[key]
    return value_text(value), str(value)


class Lines(NamedTuple):
    """The parallel-coordinates plot with a line for each job; ``strength`` is 100 for the best and 0 for the last."""

    plot: Parallel
    jobs: list[Job]
    words: list[str]
    strength: list[int]


def _parallel(sweep: Sweep, names: dict[str, str]) -> Lines | None:
    jobs = sweep.ranked
    if len(jobs) < 2 or not names:
        return None
    columns: list[tuple[str, str, list[Any]]] = [
        (name, key, [job.settings.get(key, "\N{EN DASH}") for job in jobs]) for key, name in names.items()
    ]
    columns.append((sweep.monitor, sweep.monitor, [job.score for job in jobs]))
    words = [
        ", ".join(f"{name} {value_text(values[place])}" for name, _, values in columns) for place in range(len(jobs))
    ]
    strength = [round(100 * (1 - place / (len(jobs) - 1))) for place in range(len(jobs))]
    return Lines(parallel(columns, turned=not sweep.higher_is_better), jobs, words, strength)


class Setting(NamedTuple):
    """A varied setting: how much it matters, in percent and in words, and a plot of it."""

    importance: Importance
    percent: float | None
    words: str
    plot: Plot


def _setting(one: Importance, sweep: Sweep) -> Setting:
    jobs = sweep.ranked
    values = [job.settings.get(one.setting, "\N{EN DASH}") for job in jobs]
    scores = [job.score for job in jobs if job.score is not None]
    plot = scores_over(one.setting, values, scores, monitor=sweep.monitor)
    return Setting(one, None if one.share is None else 100 * one.share, one.words, plot)


def _commands(sweep: Sweep) -> dict[str, str]:
    commands = {}
    if sweep.command:
        commands["The sweep again, or what is missing of it"] = shlex.join(sweep.command)
    if sweep.best and sweep.best.overrides:
        commands["The best job by itself"] = shlex.join(["python", "train.py", *sweep.best.overrides])
    return commands
