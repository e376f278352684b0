"""Numbers from generated captions. Knows only strings (and, by name, the teacher-forced two of validation)."""

from captioning.errors import UserError, nearest
from captioning.metrics.scores import METRICS, Scores, score
from captioning.metrics.text import normalize

__all__ = ["HIGHER_IS_BETTER", "Scores", "direction", "normalize", "score"]

HIGHER_IS_BETTER: dict[str, bool | None] = {
    "loss": False,
    "token_accuracy": True,
    **{name: metric.higher_is_better for metric in METRICS for name in metric.names},
}


def direction(monitor: str) -> str:
    """``"min"`` or ``"max"``: which way of a validation metric such as ``val/wer`` is better.

    Raises:
        UserError: validation has no such metric, or neither way of it is better.
    """
    names = [f"val/{name}" for name in HIGHER_IS_BETTER]
    if monitor not in names:
        raise UserError(f"monitor={monitor}: validation has no such metric{nearest(monitor, names)}")
    higher = HIGHER_IS_BETTER[monitor.removeprefix("val/")]
    if higher is None:
        raise UserError(f"monitor={monitor}: neither more nor less of it is better; take val/wer or val/cider")
    return "max" if higher else "min"
