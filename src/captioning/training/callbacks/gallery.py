"""The same validation images at each validation, with the captions of the model."""

import warnings
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any, cast

import lightning as L
from annotated_types import Ge
from PIL import Image

from captioning.data.statistics import spread
from captioning.errors import check_arguments
from captioning.metrics.error_rates import nearest_first
from captioning.runs.run_folder import Prediction, RunFolder
from captioning.training.callbacks.wandb_logger import wandb_loggers

if TYPE_CHECKING:
    from captioning.training.datamodule import CaptionDataModule
    from captioning.training.module import CaptionModule


class Gallery(L.Callback):
    """Shows N validation images beside their references and captions, the same ones each time.

    They are kept in the run folder's ``gallery.jsonl``, go to wandb as the table ``val/gallery`` that grows by step,
    and, without wandb, are drawn as ``gallery/stepNNNNNN.png``.
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
        trackers = wandb_loggers(trainer)
        for tracker in trackers:
            tracker.log_captions("val/gallery", step, predictions, images)
        if not trackers:
            draw_captions(run.path / "gallery" / f"step{step:06d}.png", f"step {step}", predictions, images)


def draw_captions(path: Path, title: str, predictions: list[Prediction], images: list[Image.Image]) -> None:
    """Draw images beside their captions and references, as a PNG."""
    from matplotlib.figure import Figure  # takes half a second

    figure = Figure(figsize=(9, 0.4 + 1.4 * len(images)), dpi=100, layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(images), 2, squeeze=False, width_ratios=(1, 4))
    for (left, right), prediction, image in zip(axes, predictions, images, strict=True):
        left.imshow(image)
        left.axis("off")
        right.axis("off")
        nearest = nearest_first(prediction["prediction"], prediction["references"])
        caption = fill(prediction["prediction"] or "(nothing)", 80, max_lines=2)
        references = "\n".join(fill(reference, 105, max_lines=1) for reference in nearest[:3])
        right.text(0, 0.52, caption, va="bottom", fontsize=11, weight="bold", parse_math=False)
        right.text(0, 0.46, references, va="top", fontsize=9, color="0.35", parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of scripts that matplotlib's font lacks, and draws as boxes
        figure.savefig(path)
