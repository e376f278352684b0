"""The best model to the Hub, while training goes on and at its end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from captioning.errors import UserError
from captioning.export.push import require_ready
from captioning.training.callbacks import callbacks_of_type

_log = logging.getLogger(__name__)
COMMAND = [sys.executable, "-c", "from captioning.cli import main; main()", "push"]


class PushToHub(L.Callback):
    """Uploads the best model as ``captioning push`` does, by a process of its own: no training waits or fails for it.

    Args:
        push: whether to.
        name: ``USER/NAME`` on the Hub.
        every_n_validations: upload the best model so far, too; one that is being uploaded isn't overtaken.
        public: whether everybody may see a repository that is new.
        license: of the model.
        data_license: of the data.
        samples: test images in the card.

    Raises:
        UserError: there is no name, or it can't be one.
    """

    def __init__(
        self,
        *,
        push: bool = False,
        name: str | None = None,
        every_n_validations: int | None = None,
        public: bool = False,
        license: str | None = None,  # noqa: A002  as the Hub calls it
        data_license: str | None = None,
        samples: int = 4,
    ) -> None:
        if push and name is None:
            raise UserError("hub.push=true: where to? hub.name=USER/NAME says it")
        if every_n_validations is not None and every_n_validations < 1:
            raise UserError(f"hub.every_n_validations must be at least 1, or null for never, got {every_n_validations}")
        self.name, self.public, self.every = str(name), public, every_n_validations
        given = {"--license": license, "--data-license": data_license, "--samples": str(samples)}
        self._options = [part for option, value in given.items() if value is not None for part in (option, value)]
        self._options += ["--public"] if public else []
        self._validations, self._is_due = 0, False
        self._pushed: str | None = None  # the checkpoint that went last
        self._process: subprocess.Popen[str] | None = None
        self._links: tempfile.TemporaryDirectory[str] | None = None

    def require_ready(self) -> None:
        """Ask the Hub whether an upload can succeed, before hours of training.

        Raises:
            UserError: nobody is logged in, the repository holds something else, or the Hub can't be reached.
        """
        require_ready(self.name, public=self.public)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking and self.every:
            self._validations += 1
            self._is_due = self._is_due or self._validations % self.every == 0

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Begin an upload that is due, once its checkpoint is written and the last upload has ended."""
        if not self._is_due or (self._process and self._process.poll() is None):
            return
        self._tell()
        best = next((c.best_model_path for c in callbacks_of_type(trainer, ModelCheckpoint) if c.best_model_path), None)
        if best and Path(best).is_file():
            self._is_due = False
            if best != self._pushed:
                self._pushed = best
                self._begin(self._linked(Path(best)))

    def finish(self, folder: Path) -> None:
        """Upload the model of a run that has ended, and wait for it. A failure is told; the run has succeeded."""
        self._tell()
        _log.info(f"uploading the model to {self.name}")
        self._begin(str(folder))
        self._tell(way_out=f"; to try again: captioning push {folder} {self.name}{' --public' * self.public}")

    def _linked(self, checkpoint: Path) -> str:
        """The checkpoint by a name of its own, since a better one would end it before it is read."""
        self._links = tempfile.TemporaryDirectory(prefix=".hub-", dir=checkpoint.parent.parent)
        link = Path(self._links.name) / checkpoint.name
        try:
            link.hardlink_to(checkpoint)
        except OSError:  # a disk without links
            return str(checkpoint)
        return str(link)

    def _begin(self, source: str) -> None:
        self._process = subprocess.Popen(
            [*COMMAND, source, self.name, *self._options],
            env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _tell(self, way_out: str = "") -> None:
        """Wait for an upload, and say how it ended."""
        if self._process is None:
            return
        said, complaints = self._process.communicate()
        if self._process.returncode:
            why = (complaints.strip().splitlines() or ["it ended without a word"])[-1].removeprefix("error: ")
            _log.warning(f"the model isn't on the Hub: {why}{way_out}")
        else:
            _log.info(f"the model is on the Hub, {said.strip().splitlines()[-1]}")
        self._process = None
        if self._links:
            self._links.cleanup()
