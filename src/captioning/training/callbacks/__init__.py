"""What happens around training: one subject a file."""

from typing import TypeVar

import lightning as L

C = TypeVar("C", bound=L.Callback)


def callbacks_of_type(trainer: L.Trainer, kind: type[C]) -> list[C]:
    """The trainer's callbacks of a class."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # which Lightning sets elsewhere
    return [callback for callback in callbacks if isinstance(callback, kind)]
