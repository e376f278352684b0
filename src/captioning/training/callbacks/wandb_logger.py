"""The wandb tracker, which never asks a question: what is logged to it besides metrics, and what its summary holds."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from captioning.metrics.metric_info import HIGHER_IS_BETTER
from captioning.runs.run_folder import Prediction, RunFolder, read_mapping

_log = logging.getLogger(__name__)
LONGEST_SIDE = 256  # pixels, of the images in tables
IDENTITY = "wandb/identity.json"  # which wandb run this is, in the run folder


class CaptionWandbLogger(WandbLogger):
    """Lightning's wandb logger, online where a wandb login is at hand and offline otherwise, that can show captions.

    ``WANDB_MODE`` decides before the login does, and ``offline`` before both; ``save_dir`` is the run folder,
    ``log_model`` uploads its finished model, ``resume`` continues the wandb run that was tracked in the folder, and
    ``settings`` go to ``wandb.init``.
    """

    def __init__(
        self,
        *,
        project: str,
        save_dir: str,
        offline: bool | None = None,
        log_model: bool = False,
        resume: str | None = None,
        **settings: Any,
    ) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # it would print ten lines, where one says where to look
        import wandb

        self._run_folder = RunFolder(save_dir)
        if resume and (identity := read_mapping(self._run_folder.path / IDENTITY)):
            settings |= identity | {"resume": "allow"}

        if offline is None:
            mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        else:
            mode = "offline" if offline else "online"
        # As `mode`, because Lightning's own `offline` sets an environment variable that a loaded wandb no longer reads.
        super().__init__(project=project, save_dir=save_dir, mode=mode, **settings)
        self.uploads_model = log_model  # Lightning's own log_model uploads checkpoints, with the optimizer in them
        self._tables: dict[str, Any] = {}
        self._is_offline = mode == "offline"

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Open the wandb run with its settings, and write down which it is, so that it can be resumed.

        Its summary holds the best and the last of each validation metric.
        """
        if self._is_offline:
            folder = self._run_folder.path / "wandb"
            _log.info(
                "wandb: offline (online needs `wandb login` or WANDB_API_KEY). Look at the run with "
                f"`wandb leet {folder}`, send it with `wandb sync {folder}/offline-run-*`"
            )
        super().log_hyperparams(params)
        run = self.experiment
        if run.url:
            _log.info(f"wandb: {run.url}")
        identity = {"id": run.id, "name": run.name, "group": run.group or None, "tags": list(run.tags or ())}
        self._run_folder.write_json(IDENTITY, identity)
        for name, higher in HIGHER_IS_BETTER.items():
            best = "" if higher is None else "max," if higher else "min,"
            run.define_metric(f"val/{name}", step_metric="trainer/global_step", summary=f"{best}last")

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

    def log_results(self, metrics: Mapping[str, Any], model_folder: Path | None) -> None:
        """Put intervals and the tested checkpoint's validation numbers into the summary, and upload the model."""
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
