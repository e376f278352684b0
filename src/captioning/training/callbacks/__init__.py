"""What happens around training: one subject a file."""

from typing import TypeVar

import lightning as L

C = TypeVar("C", bound=L.Callback)


def of_kind(trainer: L.Trainer, kind: type[C]) -> list[C]:
    """The trainer's callbacks of a class."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which Lightning sets elsewhere
    return [callback for callback in callbacks if isinstance(callback, kind)]
