"""Captions by Lightning's ``trainer.predict``: on all devices, for whoever starts processes with torchrun or srun."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captioning.data.cache import available_cores
from captioning.data.sources.paths import ImageFolder
from captioning.errors import UserError
from captioning.inference.captioner import (
    BATCH_SIZES,
    LARGE_BATCH,
    Captioner,
    CaptionResult,
    ImageError,
    Outcome,
    default_dtype,
    prepare,
)
from captioning.inference.pretrained import find_model, load_pretrained
from captioning.terminal import setup_logging
from captioning.training.distributed.environment import rank
from captioning.training.distributed.strategies import trainer_arguments

Opened = tuple[str, Tensor | str]  # a path, and the pixels, or why there are none


class ImageFiles(Dataset[Opened]):
    """Images of files, opened.

    Args:
        paths: of the images.
        image_processor: of the model.
    """

    def __init__(self, paths: Sequence[str], image_processor: Any) -> None:
        self.paths = paths
        self.image_processor = image_processor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Opened:
        path = self.paths[index]
        try:
            return path, prepare(path, self.image_processor)
        except ImageError as error:
            return path, error.reason


class Predictor(L.LightningModule):
    """A Captioner as Lightning predicts with it: from batches of :class:`ImageFiles` to :class:`CaptionResult`.

    Args:
        captioner: on the CPU; Lightning moves it.
        prefix: what every caption begins with.
        **decoding: settings of :class:`captioning.models.generation.Decoding`.
    """

    def __init__(self, captioner: Captioner, *, prefix: str = "", **decoding: Any) -> None:
        super().__init__()
        self.network = captioner.network
        self.captioner = captioner
        self.prefix = prefix
        self.decoding = captioner.settings(**decoding)

    def predict_step(self, batch: Sequence[Opened], batch_idx: int) -> list[CaptionResult]:
        self.captioner.device = self.device
        pixels = [opened for _, opened in batch if isinstance(opened, Tensor)]
        captions = iter(
            self.captioner.caption_pixels(torch.stack(pixels), self.decoding, prefix=self.prefix) if pixels else ()
        )
        return [
            CaptionResult(path, [], opened) if isinstance(opened, str) else CaptionResult(path, next(captions))
            for path, opened in batch
        ]


class CaptionFiles(BasePredictionWriter):
    """Writes the captions of each process to a file of its own, which has its name once it is whole.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("batch")
        self.folder = folder
        self.images = self.failed = 0  # of this process
        self._file: IO[str] | None = None

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"captions-{trainer.global_rank:05}-of-{trainer.world_size:05}.jsonl"
        self._whole, self._part = path, path.with_name(f".{path.name}.part")
        self._file = self._part.open("w", encoding="utf-8")

    def write_on_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, prediction: list[CaptionResult], *_: Any
    ) -> None:
        assert self._file is not None
        for captioned in prediction:
            best = captioned.captions[0] if captioned.captions else None
            line = {
                "path": captioned.image,
                "caption": best and best.text,
                "score": best and best.score,
                "error": captioned.error,
            }
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.images += len(prediction)
        self.failed += sum(captioned.error is not None for captioned in prediction)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self._file is not None
        self._file.close()
        self._part.replace(self._whole)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._file is not None:
            self._file.close()
            self._part.unlink(missing_ok=True)


def predict(
    model: str,
    images: Path,
    output: Path,
    *,
    accelerator: str = "auto",
    devices: int | str = "auto",
    batch_size: int | None = None,
    prefix: str = "",
    **decoding: Any,
) -> Outcome:
    """Caption the images of a folder, and of all folders in it, on all devices and started processes.

    Each process writes ``captions-RANK-of-PROCESSES.jsonl``: a line for each of its images, with ``path``,
    ``caption``, ``score`` and ``error``.

    Args:
        model: a run folder, a ``.ckpt``, a Hugging Face folder, or a Hub name.
        images: the folder.
        output: a folder for the files, where nothing is yet.
        accelerator: as Lightning has it.
        devices: likewise; torchrun and srun decide it themselves.
        batch_size: images at once, of each process.
        prefix: what every caption begins with.
        **decoding: settings of :class:`captioning.models.generation.Decoding`.

    Raises:
        UserError: there is no such model or folder, a wrong setting, or something is in the output.
    """
    setup_logging()
    find_model(model)
    paths = [str(images / name) for name in ImageFolder(images).images()]
    if not paths:
        raise UserError(f"{images}: no images in it")
    if rank() == 0 and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: something is in it; name a new folder")
    writer = CaptionFiles(output)
    arguments = {
        "accelerator": accelerator,
        "devices": devices,
        "callbacks": [writer],
        "logger": False,
        "enable_checkpointing": False,
    }
    trainer = L.Trainer(**trainer_arguments(arguments, callbacks=[], timeout_seconds=1800))
    device = trainer.strategy.root_device
    network, processor, settings = load_pretrained(model)
    captioner = Captioner(network, processor, decoding=settings, device="cpu", dtype=default_dtype(device))
    size = batch_size or BATCH_SIZES.get(device.type, LARGE_BATCH)
    loader = DataLoader(
        ImageFiles(paths, processor.image_processor),
        batch_size=size,
        num_workers=min(4, available_cores() - 1),
        collate_fn=list,
    )
    trainer.predict(Predictor(captioner, prefix=prefix, **decoding), loader, return_predictions=False)
    counts = torch.tensor([writer.images, writer.failed], device=device)
    return Outcome(*trainer.strategy.reduce(counts, reduce_op="sum").tolist())
