"""Fine-tune GIT to caption pictures."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captioning.captioner import Captioner
    from captioning.datamodule import CaptionDataModule
    from captioning.module import CaptionModule

__all__ = ["CaptionDataModule", "CaptionModule", "Captioner"]
__version__ = version("captioning")


def __getattr__(name: str) -> Any:
    # Imported when asked for, because torch and Lightning take seconds and `captioning --help` needs neither.
    homes = {
        "CaptionDataModule": "captioning.datamodule",
        "CaptionModule": "captioning.module",
        "Captioner": "captioning.captioner",
    }
    if name in homes:
        return getattr(import_module(homes[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
