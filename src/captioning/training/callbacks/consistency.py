"""All processes of a run hold the same settings, data and code before any of them trains."""

import importlib.metadata
import json
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightning as L
from torch import distributed

from captioning.errors import UserError
from captioning.runs.run_folder import flat
from captioning.training.datamodule import CaptionDataModule
from captioning.training.distributed.environment import named
from captioning.training.module import CaptionModule

PACKAGES = ("torch", "lightning", "transformers", "tokenizers", "torchmetrics", "numpy", "pillow")
# Where things are may differ from machine to machine; what they are is compared by its content.
OF_THE_MACHINE = ("data.path", "data.images", "data.splits_from", "data.cache_dir", "data.num_workers")
SHOWN = 3  # differences, and processes of each value


class ConsistencyCheck(L.Callback):
    """Refuses to train where processes differ in what must be the same.

    Otherwise they would train different models, or wait for each other for ever, and nothing would tell.

    Args:
        settings: all of this process, as plain Python.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        gathered: list[Any] = [None] * trainer.world_size
        distributed.all_gather_object(gathered, rank_fingerprint(self.settings, trainer, pl_module))
        if found := differences(gathered):
            some = "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
            if not trainer.is_global_zero:  # one says what all find
                raise SystemExit(1)
            raise UserError(f"the processes of this run aren't the same, so none of them begins: {some}")


def rank_fingerprint(settings: Mapping[str, Any], trainer: L.Trainer, module: L.LightningModule) -> dict[str, str]:
    """What has to be the same in every process, by name: settings as they are, and digests of all that is large."""
    ground = {name: value for name, value in flat(dict(settings)).items() if name not in OF_THE_MACHINE}
    ground["the number of processes"] = str(trainer.world_size)
    ground["the checkpoint to go on from"] = str(trainer.ckpt_path)
    ground["Python"] = platform.python_version()
    ground |= {package: importlib.metadata.version(package) for package in PACKAGES}
    ground["the code of captioning"] = code_digest()
    datamodule = getattr(trainer, "datamodule", None)
    if isinstance(datamodule, CaptionDataModule):
        ground["the data"] = datamodule.fingerprint
        ground |= {f"the {split} split": _digest(json.dumps(ids)) for split, ids in datamodule.split_ids.items()}
        ground["the processor"] = _processor_digest(datamodule.processor)
    if isinstance(module, CaptionModule) and module.processor is not None:
        ground["the model's processor"] = _processor_digest(module.processor)
    return ground


def differences(gathered: Sequence[Mapping[str, str]]) -> list[str]:
    """What isn't the same, and in which processes; the numbers of processes are their places in the list."""
    lines = []
    for name in sorted({name for ground in gathered for name in ground}):
        processes = defaultdict(list)
        for rank, ground in enumerate(gathered):
            processes[ground.get(name, "missing")].append(rank)
        if len(processes) > 1:
            verb = "are" if name == "the data" else "is"
            values = [f"{value} in {named(ranks, most=SHOWN)}" for value, ranks in processes.items()]
            more = f", and {len(values) - SHOWN} more values" if len(values) > SHOWN else ""
            lines.append(f"{name} {verb} {', '.join(values[:SHOWN])}{more}")
    return lines


def code_digest() -> str:
    """A short hash of this package's source files."""
    root = Path(__file__).parents[2]
    files = sorted(path for path in root.rglob("*.py"))
    return _digest("".join(f"{path.relative_to(root)}\n{path.read_text(encoding='utf-8')}" for path in files))


def _processor_digest(processor: Any) -> str:
    """Of what it does, and not of the folder that it was loaded from, which its files name."""
    tokenizer = processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = json.loads(backend.to_str()) if backend else tokenizer.get_vocab()
    last_use = {"truncation", "padding"}  # of the tokenizer, whatever it was for
    parts = [
        {name: part for name, part in words.items() if name not in last_use},
        [str(token) for token in tokenizer.all_special_tokens],
        {name: part for name, part in processor.image_processor.to_dict().items() if "name_or_path" not in name},
    ]
    return _digest(json.dumps(parts, sort_keys=True, default=str))


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=4).hexdigest()
