"""The curves as ``metrics.csv``."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from captioning.files import replacing


class CaptionCSVLogger(CSVLogger):
    """Lightning's logger of ``metrics.csv`` in the run folder ``save_dir``, which can continue from a checkpoint."""

    def __init__(self, *, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="")
        self._path = Path(save_dir) / "metrics.csv"
        self._newest: dict[str, Any] = {}

    def resume(self, *, before: int) -> None:
        """Keep the rows of steps ``before`` this one, counted from 0; Lightning removes a file that is there."""
        kept = self._path.with_name(f".{self._path.name}.kept")
        if self._path.exists():
            self._path.replace(kept)
        reader = csv.DictReader(io.StringIO(kept.read_text(encoding="utf-8") if kept.exists() else ""))
        # A row that a kill cut short has no step.
        rows = [row for row in reader if (row["step"] or "").isdecimal() and int(row["step"]) < before]
        columns = list(reader.fieldnames or [])
        experiment = self.experiment
        if rows:
            with replacing(self._path) as part, part.open("w", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)
            experiment.metrics_keys = columns
        kept.unlink(missing_ok=True)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        # With a checkpoint, a step's numbers are logged before Lightning does it: once is enough.
        newest = {**metrics, "step": step}
        if newest.keys() != self._newest.keys() or step != self._newest["step"]:
            super().log_metrics(metrics, step)
        self._newest = newest
