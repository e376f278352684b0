"""Fine-tune GIT to caption images."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioning.inference.captioner import Captioner
    from captioning.training.datamodule import CaptionDataModule
    from captioning.training.module import CaptionModule

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
