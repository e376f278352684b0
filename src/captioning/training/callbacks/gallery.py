"""The same validation images at each validation, with the captions of the model."""

from typing import TYPE_CHECKING, Annotated, Any, cast

import lightning as L
from annotated_types import Ge

from captioning.data.statistics import spread
from captioning.errors import check_arguments
from captioning.runs.run_folder import RunFolder
from captioning.training.callbacks.wandb_logger import wandb_loggers

if TYPE_CHECKING:
    from captioning.training.datamodule import CaptionDataModule
    from captioning.training.module import CaptionModule


class Gallery(L.Callback):
    """Shows N validation images beside their references and captions, the same ones each time.

    They are kept in the run folder's ``gallery.jsonl``, and go to wandb as the table ``val/gallery``.
    """

    def __init__(self, *, images: Annotated[int, Ge(1)] = 8) -> None:
        check_arguments(type(self).__init__, locals(), section="callbacks.gallery")
        self.images = images
        self.lines: list[dict[str, object]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self.lines}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lines = state_dict["lines"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = cast("CaptionDataModule", getattr(trainer, "datamodule", None))
        if trainer.sanity_checking or not trainer.is_global_zero or not hasattr(data, "image"):
            return
        pl_module = cast("CaptionModule", pl_module)
        evaluation, step = pl_module.evaluations["val"], trainer.global_step
        shown = spread(range(len(evaluation.rows)), self.images)
        predictions = [evaluation.predictions[index] for index in shown]
        images = [data.image("val", evaluation.rows[index]) for index in shown]
        run = RunFolder(trainer.default_root_dir)
        if not self.lines:
            ids = [prediction["id"] for prediction in predictions]
            run.add_thumbnails("val", dict(zip(ids, images, strict=True)))
        self.lines += [{"step": step, **prediction} for prediction in predictions]
        run.write_json_lines("gallery.jsonl", self.lines)
        for tracker in wandb_loggers(trainer):
            tracker.log_captions("val/gallery", step, predictions, images)
