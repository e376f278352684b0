"""`captioning check`: whether data are fit to train on, before anything is trained."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from captioning.data.images import read_image
from captioning.data.issues import Issue, by_severity
from captioning.errors import UserError
from captioning.runs.report.check_page import Check, render_check
from captioning.runs.report.numbers import numbers_of_split
from captioning.runs.run_folder import RunFolder
from captioning.terminal import plain, plain_console, setup_logging
from captioning.training.datamodule import CaptionDataModule

FILES = {"report": "check.html", "all issues": "check.json", "splits": "splits.json"}
COLORS = {"good": "bold green", "fair": "bold yellow", "bad": "bold red"}


def check(data: dict[str, Any], overrides: Sequence[str], folder: Path) -> bool:
    """Read, decode and split data as a training would, show what is found, and leave it in a folder.

    Returns whether the data are ready to be trained on with the settings ``data``; a checkpoint that can't be had is
    named, and isn't theirs.

    Raises:
        UserError: the settings are wrong, or nothing can be read.
    """
    setup_logging()
    if (folder / ".hydra").exists():
        raise UserError(f"--output-dir {folder}: holds a run; take another folder")
    datamodule = CaptionDataModule(**data)
    report = datamodule.inspect(tolerant=True)
    missing, unsplit = datamodule.processor_missing, datamodule.splits_missing
    unmeasured = f"; captions weren't measured against a tokenizer: {missing}" if missing else ""
    limits = {"strict": data["strict"], "max_bad_share": data["max_bad_share"]}
    result = Check(
        report=report,
        splits=datamodule.summary["splits"],
        verdict=f"not ready: {unsplit}" if unsplit else report.summary(**limits) + unmeasured,
        ready=not unsplit and report.blocking_reason(**limits) is None,
        data=data["path"] or data["source"],
        command=shlex.join(["captioning", "check", *overrides]),
        image=lambda row: read_image(report.rows.table[row]["image"]),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output-dir {folder}: {error.strerror}") from error
    content = {
        "verdict": result.verdict,
        "ready": result.ready,
        "seen": report.total,
        "left_out": report.left_out,
        "data_fingerprint": datamodule.fingerprint,
        "splits": result.splits,
        "findings": [issue._asdict() for issue in report.issues],
    }
    run = RunFolder(folder)
    run.write_json("check.json", content)
    run.write_text("check.html", render_check(result))
    (folder / "splits.json").unlink(missing_ok=True)  # of an earlier check
    if report.rows.captions:
        run.write_json("splits.json", datamodule.split_ids)
    console = plain_console()
    console.print()
    if result.splits:
        numbers = {split: numbers_of_split(summary) for split, summary in result.splits.items()}
        columns = [Column(name.lower(), justify="right") for name in next(iter(numbers.values()))]
        caption = "three numbers: smallest / median / largest"
        table = Table("split", *columns, caption=caption, caption_justify="left")
        for split, values in numbers.items():
            table.add_row(split, *values.values())
        console.print(table)
    if report.issues:
        console.print(_issues_table(report.issues))
    console.print()
    for what, name in FILES.items():
        if (folder / name).exists():
            console.print(f"{what:10}  {folder / name}", soft_wrap=True)  # a path that is cut can't be copied
    console.print()
    console.print(plain(result.verdict), soft_wrap=True, style=COLORS[result.state])
    return result.ready


def _issues_table(issues: Sequence[Issue], names_shown: int = 3) -> Table:
    texts = [Column(heading, overflow="fold") for heading in ("what", "such as")]
    table = Table("", Column("number", justify="right"), *texts)
    severity = None
    for issue in by_severity(issues):
        if severity not in (None, issue.severity):
            table.add_section()
        names = [plain(name) for name in issue.names[:names_shown]]
        more = ["…"] if len(issue.names) > names_shown else []
        first = "" if issue.severity == severity else issue.severity
        table.add_row(first, f"{len(issue.names):,}", plain(issue.kind), ", ".join([*names, *more]))
        severity = issue.severity
    return table
