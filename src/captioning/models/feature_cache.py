"""The features of a frozen vision tower, computed once and cached on disk."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.filesize import decimal
from torch import Tensor

from captioning.errors import reason
from captioning.files import write_at

_log = logging.getLogger(__name__)


class FeatureFile:
    """The features of ``count`` images in a temporary file; a warning and no cache if the disk is full."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # open as long as this object is there
        self._is_kept = np.zeros(count, dtype=bool)
        self._like: Tensor | None = None  # the features of an image, without their values
        self._has_room = True

    def of(self, images: Sequence[int], pixel_values: Tensor, tower: Callable[[Tensor], Tensor]) -> Tensor:
        """The features of a batch, (batch, positions, width), by the numbers of its ``images``.

        Each image goes through the tower by itself, or its last digits could depend on which others are cached already.
        """
        features = []
        for number, image in zip(images, pixel_values, strict=True):
            if self._is_kept[number]:
                features.append(self._read(number).to(image.device))
            else:
                features.append(tower(image[None])[0])
                self._keep(number, features[-1])
        return torch.stack(features)

    def _read(self, number: int) -> Tensor:
        assert self._like is not None
        content = bytearray(self._like.nbytes)
        os.preadv(self._file.fileno(), [content], number * len(content))
        return torch.frombuffer(content, dtype=self._like.dtype).view(self._like.shape)

    def _keep(self, number: int, features: Tensor) -> None:
        if self._like is None:
            self._like = torch.empty_like(features, device="meta")
            count, free = len(self._is_kept), shutil.disk_usage(self._folder).free
            if (size := features.nbytes * count) > free:
                self._give_up(f"{count:,} images take {decimal(size)} there, and {decimal(free)} are left")
        if not self._has_room:
            return
        content = features.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        try:
            write_at(self._file.fileno(), content, number * len(content))
            self._is_kept[number] = True
        except OSError as error:
            self._give_up(reason(error))

    def _give_up(self, why: str) -> None:
        self._has_room = False
        _log.warning(
            f"the features of the frozen vision tower can't be cached in {self._folder} ({why}), so they are computed "
            "in each epoch"
        )
