"""Captions by Ray Data: from a folder or bucket of images to Parquet, on any number of machines."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs

from captioning.data.sources.paths import image_suffixes
from captioning.errors import UserError, reason
from captioning.inference.captioner import Captioner
from captioning.inference.pretrained import find_model

CPUS_EACH = 4  # of a captioner without a GPU, at most
BATCH = 128  # images that a captioner is given at once, so that it can open some while it captions others


class CaptionBatch:
    """A callable class for ``ray.data.Dataset.map_batches``: batches with images to tables with captions.

    ``source``, ``device`` and ``dtype`` are as for :meth:`captioning.Captioner.from_pretrained`; every machine must be
    able to read the model. ``settings`` are those of :meth:`captioning.Captioner.stream`. ``column`` has the images:
    ``bytes`` of ``ray.data.read_binary_files``, ``image`` of ``read_images``, or paths; it isn't in the result.

    A call adds the columns ``caption`` (string), ``score`` (float32) and ``error`` (string): why an image has none.
    """

    def __init__(
        self, source: str, *, column: str = "bytes", device: str | None = None, dtype: Any = None, **settings: Any
    ) -> None:
        self.captioner = Captioner.from_pretrained(source, device=device, dtype=dtype)
        self.column, self.settings = column, settings

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        results = list(self.captioner.stream(batch[self.column], **self.settings))
        best = [result.captions[0] if result.captions else None for result in results]
        columns = {name: pa.array(list(values)) for name, values in batch.items() if name != self.column}
        # Typed, because in some batch all may be absent.
        columns["caption"] = pa.array([caption and caption.text for caption in best], pa.string())
        columns["score"] = pa.array([caption and caption.score for caption in best], pa.float32())
        columns["error"] = pa.array([result.error for result in results], pa.string())
        return pa.table(columns)


def caption_with_ray(
    model: str, images: str, output: str, *, captioners: int | None = None, **settings: Any
) -> tuple[int, int]:
    """Caption all images of a folder or bucket, into Parquet files with their path, caption, score and error.

    It connects to the cluster that ``RAY_ADDRESS`` names, or to one on this machine, or starts Ray on this machine
    alone. One captioner has one GPU; without GPUs, some cores.

    ``images`` is a folder or a URI (``s3://BUCKET/FOLDER``), read with all folders in it; ``output`` is one where
    nothing is yet. There are at most ``captioners``, by default one for each GPU, or for some cores; the rest is as for
    :class:`CaptionBatch`.

    Returns the numbers of images, and of those without a caption. Raises UserError.
    """
    if find_spec("ray") is None:
        raise UserError("captioning with Ray needs Ray Data, which isn't installed: pip install -e '.[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry unless the user wants it
    import ray

    found = find_model(model)  # here, where a mistake is one line
    source = str(found.absolute()) if isinstance(found, Path) else found
    # Absolute, for processes that are started elsewhere:
    images, output = (at if "://" in at else str(Path(at).expanduser().absolute()) for at in (images, output))
    if "://" not in images and not Path(images).exists():
        raise UserError(f"{images}: no such folder")
    filesystem, folder = pyarrow.fs.FileSystem.from_uri(output)
    if filesystem.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True)):
        raise UserError(f"{output}: isn't empty; name a new folder")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # it has bars in a terminal
    has = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = int(has.get("CPU", 1)), int(has.get("GPU", 0))
    cpus_each = max(1, min(CPUS_EACH, cpus - 1))  # one is left to read
    size = captioners or gpus or max(1, (cpus - 1) // cpus_each)
    try:
        extensions = [suffix.lstrip(".") for suffix in image_suffixes()]
        files = ray.data.read_binary_files(images, include_paths=True, file_extensions=extensions)
        captioned = files.map_batches(
            CaptionBatch,
            fn_constructor_args=(source,),
            fn_constructor_kwargs=settings,
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=size),
            num_gpus=1 if gpus else None,
            num_cpus=None if gpus else cpus_each,
        )
        captioned.write_parquet(output)
    except (ray.exceptions.RayError, OSError, ValueError) as error:
        raise UserError(f"{images}: {reason(getattr(error, 'cause', None) or error)}") from error
    errors = pyarrow.dataset.dataset(folder, filesystem=filesystem).scanner(columns=["error"])
    failed = sum(len(batch) - batch["error"].null_count for batch in errors.to_batches())
    return errors.count_rows(), failed
