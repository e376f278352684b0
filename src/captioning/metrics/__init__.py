"""Numbers from generated captions. Knows only strings (and, by name, the teacher-forced two of validation)."""

from captioning.metrics.scores import METRICS, Scores, score
from captioning.metrics.text import normalize

__all__ = ["HIGHER_IS_BETTER", "Scores", "normalize", "score"]

HIGHER_IS_BETTER: dict[str, bool | None] = {
    "loss": False,
    "token_accuracy": True,
    **{name: metric.higher_is_better for metric in METRICS for name in metric.names},
}
