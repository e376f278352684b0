"""``report.html``: what a run was, what it can do and what it gets wrong, on one page that needs nothing beside it."""

from pathlib import Path


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run folder, from that folder alone, and return its path.

    A file that is missing costs its section only, which then says so.

    Raises:
        UserError: ``folder`` is no run folder, or a file of it can't be read.
    """
    from captioning.runs.report.page import render
    from captioning.runs.run_folder import RunFolder

    run = RunFolder(folder)
    run.write_text("report.html", render(run))
    return folder / "report.html"
