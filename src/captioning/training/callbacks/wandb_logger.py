"""The wandb tracker, which never asks a question: what is logged to it besides numbers, and what its summary holds."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from captioning.files import write_json
from captioning.metrics import HIGHER_IS_BETTER
from captioning.runs.run_folder import Prediction, read_mapping

_say = rank_zero_only(logging.getLogger(__name__).info)
LONGEST_SIDE = 256  # of the images in tables


class CaptionWandbLogger(WandbLogger):
    """Lightning's wandb logger, online where a wandb login is at hand and offline otherwise, that can show captions.

    Args:
        project: wandb project.
        save_dir: folder of the tracker's own files.
        offline: settles it; by default ``WANDB_MODE`` does, and where that isn't set, whether there is a login.
        log_model: upload the finished model folder as an artifact.
        settings: further arguments of Lightning's ``WandbLogger`` and ``wandb.init``: ``name``, ``group``, ``tags``, …
    """

    def __init__(
        self, *, project: str, save_dir: str, offline: bool | None = None, log_model: bool = False, **settings: Any
    ) -> None:
        if offline is None:
            mode = os.environ.get("WANDB_MODE") or ("online" if _is_logged_in() else "offline")
        else:
            mode = "offline" if offline else "online"
        # As `mode`, because Lightning's own `offline` sets an environment variable that a loaded wandb no longer reads.
        super().__init__(project=project, save_dir=save_dir, mode=mode, **settings)
        self.uploads_model = log_model  # Lightning's own log_model uploads checkpoints, with the optimizer in them
        self._tables: dict[str, Any] = {}
        self._identity = Path(save_dir) / "wandb" / "identity.json"
        self._is_offline = mode == "offline"

    def go_on(self) -> None:
        """Be the tracker of the run that is resumed in this folder, under its name, if it was tracked."""
        if identity := read_mapping(self._identity):
            self._wandb_init.update(identity, resume="allow")
            self._id = identity["id"]

    def begin(self) -> None:
        """Open the run, and write down which it is, so that it can be gone on with whatever becomes of this process.

        Its summary holds the best and the last of each validation number; each metric knows its direction.
        """
        if self._is_offline:
            folder = self._identity.parent
            _say(
                "wandb: offline (online needs `wandb login` or WANDB_API_KEY). Look at the run with "
                f"`wandb leet {folder}`, send it with `wandb sync {folder}/offline-run-*`"
            )
        run = self.experiment
        self._identity.parent.mkdir(parents=True, exist_ok=True)
        identity = {"id": run.id, "name": run.name, "group": run.group or None, "tags": list(run.tags or ())}
        write_json(self._identity, identity)
        for name, higher in HIGHER_IS_BETTER.items():
            best = "" if higher is None else "max," if higher else "min,"
            self.experiment.define_metric(f"val/{name}", step_metric="trainer/global_step", summary=f"{best}last")

    def log_captions(
        self, name: str, step: int, predictions: Sequence[Prediction], images: Sequence[Image.Image]
    ) -> None:
        """Add rows to a table of images, references and captions, which grows by step."""
        import wandb

        if name not in self._tables:
            columns: list[str | int] = ["step", "id", "image", "references", "prediction"]
            self._tables[name] = wandb.Table(columns=columns, log_mode="INCREMENTAL")
        for prediction, image in zip(predictions, images, strict=True):
            small = image.copy()
            small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            references = "\n".join(prediction["references"])
            self._tables[name].add_data(
                step, prediction["id"], wandb.Image(small), references, prediction["prediction"]
            )
        # Beside the curves of this step, which Lightning numbers from 0.
        self.experiment.log({name: self._tables[name], "trainer/global_step": max(step - 1, 0)})

    def alert(self, title: str, text: str) -> None:
        """Warn whoever watches the run."""
        self.experiment.alert(title=title, text=text, level="WARN")

    def log_results(self, metrics: Mapping[str, Any], model_folder: Path | None) -> None:
        """Put what isn't logged as a curve into the summary, and upload the model where ``log_model`` asks for it.

        That is the intervals, and the validation numbers of the checkpoint that was tested, as ``best/val/…``.
        """
        import wandb

        tested = {f"best/{name}": value for name, value in metrics.items() if name.startswith("val/")}
        intervals = {name: value for name, value in metrics.items() if name.endswith("_ci95")}
        self.experiment.summary.update(tested | intervals)
        if self.uploads_model and model_folder:
            artifact = wandb.Artifact(f"model-{self.experiment.id}", type="model", metadata=dict(metrics))
            artifact.add_dir(str(model_folder))
            self.experiment.log_artifact(artifact)


def wandb_loggers(trainer: L.Trainer) -> list[CaptionWandbLogger]:
    """The trainer's wandb loggers, for those who log more than numbers; none on other processes than the first."""
    if not trainer.is_global_zero:
        return []
    return [logger for logger in trainer.loggers if isinstance(logger, CaptionWandbLogger)]


def _is_logged_in() -> bool:
    import wandb

    return bool(wandb.login(prompt=False))
