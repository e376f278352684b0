"""Fine-tune GIT to caption images."""

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioning.inference.captioner import Captioner
    from captioning.training.datamodule import CaptionDataModule
    from captioning.training.module import CaptionModule

# Before torch is imported: threads that wait by spinning make all of it many times slower on a CPU that others share.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__all__ = ["CaptionDataModule", "CaptionModule", "Captioner"]
__version__ = version("captioning")


def __getattr__(name: str) -> Any:
    # Imported when asked for, because torch and Lightning take seconds and `captioning --help` needs neither.
    homes = {
        "CaptionDataModule": "captioning.training.datamodule",
        "CaptionModule": "captioning.training.module",
        "Captioner": "captioning.inference.captioner",
    }
    if name in homes:
        return getattr(import_module(homes[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
