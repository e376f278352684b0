"""Numbers from generated captions. Knows only strings (and, by name, the teacher-forced two of validation)."""

from captioning.metrics.metric_info import HIGHER_IS_BETTER
from captioning.metrics.scores import Scores, score
from captioning.metrics.text import normalize

__all__ = ["HIGHER_IS_BETTER", "Scores", "normalize", "score"]
