"""`captioning check`: whether data are fit to train on, told before anything is trained."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from captioning.config.compose import compose_settings
from captioning.data.images import read_image
from captioning.data.issues import Issue, by_severity
from captioning.errors import UserError
from captioning.files import replacing
from captioning.run import resolve, setup_logging
from captioning.runs.report.check_page import Check, render_check, sample_rows
from captioning.runs.report.numbers import numbers_of_split
from captioning.runs.report.sample_grid import sample_grid
from captioning.runs.run_folder import write_json, write_text
from captioning.terminal import plain, plain_console
from captioning.training.datamodule import CaptionDataModule

SAMPLES = 12
PLACES = {
    "all of this to look at": "check.html",
    "a few images": "samples.png",
    "all findings, all names": "check.json",
    "who is in which split": "splits.json",
}
COLORS = {"good": "bold green", "fair": "bold yellow", "bad": "bold red"}


def check(overrides: Sequence[str] = (), *, folder: Path | None = None) -> bool:
    """Read, examine and split data as a training would, tell what is found, and leave it in a folder.

    Args:
        overrides: settings as ``python train.py`` takes them.
        folder: where the results go; by default ``outputs/check/DATE_TIME``.

    Returns:
        Whether the data are ready to be trained on with these settings; a checkpoint that can't be had is told, and
        isn't theirs.

    Raises:
        UserError: the settings are wrong, or nothing can be read.
    """
    setup_logging()
    folder = folder or Path("outputs", "check", datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    if (folder / ".hydra").exists():
        raise UserError(f"--output-dir {folder}: holds a run; take another folder")
    settings = resolve(compose_settings(overrides, command="check", folder=folder))["data"]
    datamodule = CaptionDataModule(**settings)
    report = datamodule.inspect(tolerant=True)
    missing, unsplit = datamodule.processor_missing, datamodule.splits_missing
    unmeasured = f"; captions weren't measured against a tokenizer: {missing}" if missing else ""
    limits = {"strict": settings["strict"], "max_bad_share": settings["max_bad_share"]}
    result = Check(
        report=report,
        splits=datamodule.summary["splits"],
        verdict=f"not ready: {unsplit}" if unsplit else report.summary(**limits) + unmeasured,
        ready=not unsplit and report.blocking_reason(**limits) is None,
        data=settings["path"] or settings["source"],
        command=shlex.join(["captioning", "check", *overrides]),
        image=lambda row: read_image(report.rows.table[row]["image"]),
    )
    _write(folder, result, datamodule)
    _show(folder, result)
    return result.ready


def _write(folder: Path, result: Check, datamodule: CaptionDataModule) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output-dir {folder}: {error.strerror}") from error
    report, captions = result.report, result.report.rows.captions
    content = {
        "verdict": result.verdict,
        "ready": result.ready,
        "seen": report.total,
        "left_out": report.left_out,
        "data_fingerprint": datamodule.fingerprint,
        "splits": result.splits,
        "findings": [issue._asdict() for issue in report.issues],
    }
    write_json(folder / "check.json", content)
    write_text(folder / "check.html", render_check(result))
    for name in ("splits.json", "samples.png"):  # of an earlier check
        (folder / name).unlink(missing_ok=True)
    if not captions:
        return
    write_json(folder / "splits.json", datamodule.split_ids)
    rows = sample_rows(report.splits, SAMPLES)
    with replacing(folder / "samples.png") as part:
        part.write_bytes(sample_grid([(result.image(row), captions[row][0]) for row in rows]))


def _show(folder: Path, result: Check) -> None:
    console = plain_console()
    console.print()
    if result.splits:
        console.print(_splits(result.splits))
    if result.report.issues:
        console.print(_findings(result.report.issues))
    console.print()
    for what, name in PLACES.items():
        if (folder / name).exists():
            console.print(f"{what:23}  {folder / name}", soft_wrap=True)  # a path that is cut can't be copied
    console.print()
    console.print(plain(result.verdict), soft_wrap=True, style=COLORS[result.state])


def _splits(splits: Any) -> Table:
    numbers = {split: numbers_of_split(facts) for split, facts in splits.items()}
    table = Table("split", caption="three numbers: smallest / median / largest", caption_justify="left")
    for name in next(iter(numbers.values())):
        table.add_column(name.lower(), justify="right")
    for split, values in numbers.items():
        table.add_row(split, *values.values())
    return table


def _findings(findings: Sequence[Issue], names_shown: int = 3) -> Table:
    table = Table("", show_lines=False)
    table.add_column("number", justify="right")
    table.add_column("what", overflow="fold")
    table.add_column("such as", overflow="fold")
    severity = None
    for finding in by_severity(findings):
        if severity not in (None, finding.severity):
            table.add_section()
        shown = [plain(name)[:60] for name in finding.names[:names_shown]]
        first = "" if finding.severity == severity else finding.severity
        more = ["…"] if len(finding.names) > names_shown else []
        table.add_row(first, f"{len(finding.names):,}", plain(finding.kind), ", ".join([*shown, *more]))
        severity = finding.severity
    return table
