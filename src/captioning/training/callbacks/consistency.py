"""All processes of a run hold the same settings, data and code before any of them trains."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import lightning as L
from torch import distributed

from captioning.errors import UserError
from captioning.runs.run_folder import flat
from captioning.training.datamodule import CaptionDataModule
from captioning.training.distributed.environment import format_ranks

PACKAGES = ("torch", "lightning", "transformers", "tokenizers", "torchmetrics", "numpy", "pillow")
# Paths may differ from machine to machine; what is there is compared by its content.
MACHINE_KEYS = (
    "data.path",
    "data.images",
    "data.splits_from",
    "data.cache_dir",
    "data.num_workers",
    "model.checkpoint",
    "data.processor",
)


class ConsistencyCheck(L.Callback):
    """Refuses to train where processes differ in what must be the same: they would train different models, or hang."""

    def __init__(self, settings: Mapping[str, object]) -> None:
        self.settings = settings

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        gathered: list[Mapping[str, str]] = [{}] * trainer.world_size
        distributed.all_gather_object(gathered, rank_fingerprint(self.settings, trainer))
        if found := differences(gathered):
            if not trainer.is_global_zero:  # one process says what all of them find
                raise SystemExit(1)
            raise UserError(f"the processes of this run aren't the same, so none of them trains: {'; '.join(found)}")


def rank_fingerprint(settings: Mapping[str, object], trainer: L.Trainer) -> dict[str, str]:
    """A digest of each thing that has to be the same in every process."""
    package = Path(__file__).parents[2]
    parts: dict[str, object] = {
        "settings": {name: value for name, value in flat(dict(settings)).items() if name not in MACHINE_KEYS},
        "number of processes": trainer.world_size,
        "checkpoint to resume from": str(trainer.ckpt_path),
        "code of captioning": [
            [str(path.relative_to(package)), path.read_text(encoding="utf-8")] for path in sorted(package.rglob("*.py"))
        ],
        "versions of packages": [platform.python_version(), *map(importlib.metadata.version, PACKAGES)],
    }
    datamodule = getattr(trainer, "datamodule", None)
    if isinstance(datamodule, CaptionDataModule):
        processor = datamodule.processor
        image_processor = processor.image_processor.to_dict().items()
        parts["data"] = [datamodule.fingerprint, datamodule.split_ids]
        parts["processor"] = [
            processor.tokenizer.get_vocab(),
            {name: value for name, value in image_processor if "name_or_path" not in name},
        ]
    return {
        name: blake2b(json.dumps(part, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
        for name, part in parts.items()
    }


def differences(gathered: Sequence[Mapping[str, str]]) -> list[str]:
    """What differs, and in which processes from the first."""
    lines = []
    for name, first in gathered[0].items():
        ranks = [rank for rank, digests in enumerate(gathered) if digests.get(name) != first]
        lines += [f"other {name} in {format_ranks(ranks)} than in process 0"] if ranks else []
    return lines
