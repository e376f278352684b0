"""Numbers from generated captions. Knows only strings (and counts of tokens, for the teacher-forced two)."""

from captioning.errors import UserError, nearest
from captioning.metrics.error_rates import CharErrorRate, WordErrorRate
from captioning.metrics.text import normalize

__all__ = ["CharErrorRate", "WordErrorRate", "direction", "normalize"]

HIGHER_IS_BETTER = {
    "loss": False,
    "token_accuracy": True,
    "wer": WordErrorRate.higher_is_better,
    "cer": CharErrorRate.higher_is_better,
}


def direction(monitor: str) -> str:
    """``"min"`` or ``"max"``: which way of a validation metric such as ``val/wer`` is better.

    Raises:
        UserError: validation has no such metric.
    """
    names = [f"val/{name}" for name in HIGHER_IS_BETTER]
    if monitor not in names:
        raise UserError(f"monitor={monitor}: validation has no such metric{nearest(monitor, names)}")
    return "max" if HIGHER_IS_BETTER[monitor.removeprefix("val/")] else "min"
