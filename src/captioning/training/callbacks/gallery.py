"""The same validation images at each validation, with what the model says of them."""

import warnings
from pathlib import Path
from textwrap import fill
from typing import Any

import lightning as L
from PIL import Image

from captioning.data.statistics import spread
from captioning.errors import UserError
from captioning.metrics.error_rates import nearest_first
from captioning.runs.run_folder import Prediction, RunFolder
from captioning.training.callbacks.wandb_logger import wandb_loggers
from captioning.training.datamodule import CaptionDataModule
from captioning.training.module import CaptionModule


class Gallery(L.Callback):
    """Shows a few validation images beside their references and captions, the same ones each time.

    They are kept in the run folder's ``gallery.jsonl``, go to wandb as the table ``val/gallery`` that grows by step,
    and, where there is no wandb, are drawn as ``gallery/stepNNNNNN.png``.

    Args:
        dirpath: the run folder.
        images: how many, in even steps through the validation images.
    """

    def __init__(self, *, dirpath: str, images: int = 8) -> None:
        if images < 1:
            raise UserError(f"callbacks.gallery.images must be at least 1, got {images}; callbacks.gallery=null: none")
        self.run = RunFolder(dirpath)
        self.images = images
        self.lines: list[dict[str, object]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self.lines}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lines = state_dict["lines"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        datamodule = getattr(trainer, "datamodule", None)
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(datamodule, CaptionDataModule):
            return
        assert isinstance(pl_module, CaptionModule)
        evaluation = pl_module.evaluations["val"]
        shown = spread(range(len(evaluation.rows)), self.images)
        predictions = [evaluation.predictions[index] for index in shown]
        images = [datamodule.image("val", evaluation.rows[index]) for index in shown]
        self._keep(trainer.global_step, predictions, images)
        trackers = wandb_loggers(trainer)
        for tracker in trackers:
            tracker.log_captions("val/gallery", trainer.global_step, predictions, images)
        if not trackers:
            path = self.run.path / "gallery" / f"step{trainer.global_step:06d}.png"
            draw_captions(path, f"step {trainer.global_step}", predictions, images)

    def _keep(self, step: int, predictions: list[Prediction], images: list[Image.Image]) -> None:
        if not self.lines:
            named = {prediction["id"]: image for prediction, image in zip(predictions, images, strict=True)}
            self.run.add_thumbnails("val", named)
        self.lines += [{"step": step, **prediction} for prediction in predictions]
        self.run.write_json_lines("gallery.jsonl", self.lines)


def draw_captions(path: Path, title: str, predictions: list[Prediction], images: list[Image.Image]) -> None:
    """Draw images beside what was said of them, as a PNG."""
    from matplotlib.figure import Figure  # takes half a second

    figure = Figure(figsize=(9, 0.4 + 1.4 * len(images)), dpi=100, layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(images), 2, squeeze=False, width_ratios=(1, 4))
    for (left, right), prediction, image in zip(axes, predictions, images, strict=True):
        left.imshow(image)
        left.axis("off")
        right.axis("off")
        nearest = nearest_first(prediction["prediction"], prediction["references"])
        said = fill(prediction["prediction"] or "(nothing)", 80, max_lines=2)
        truths = "\n".join(fill(reference, 105, max_lines=1) for reference in nearest[:3])
        right.text(0, 0.52, said, va="bottom", fontsize=11, weight="bold", parse_math=False)
        right.text(0, 0.46, truths, va="top", fontsize=9, color="0.35", parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of scripts that matplotlib's font lacks, and draws as boxes
        figure.savefig(path)
