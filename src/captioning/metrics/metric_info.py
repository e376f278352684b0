"""The metrics in words, for those who read them in a table."""

from typing import NamedTuple

FEW_IMAGES = 100  # below it CIDEr-D's n-gram weights and the intervals are noisy


class MetricInfo(NamedTuple):
    """What a metric is."""

    label: str
    description: str
    max: float | None = 1  # the end of its range; None where it has none
    higher_is_better: bool | None = True  # None where neither end is best


METRIC_INFO = {
    "wer": MetricInfo(
        "Word error rate (WER)", "word edits to the nearest reference, over its words", None, higher_is_better=False
    ),
    "cer": MetricInfo("Character error rate (CER)", "the same over characters", None, higher_is_better=False),
    "bleu1": MetricInfo("BLEU-1", "precision of single words, with a penalty for brevity"),
    **{f"bleu{n}": MetricInfo(f"BLEU-{n}", f"the same for up to {n} words in a row") for n in (2, 3, 4)},
    "rouge_l": MetricInfo("ROUGE-L", "F-score of the longest common subsequence of words"),
    "cider": MetricInfo("CIDEr-D", "TF-IDF-weighted n-gram similarity to all references", 10),
    "exact_match": MetricInfo("Exact match", "share of captions that equal a reference"),
    "unique_captions": MetricInfo("Unique captions", "different captions over captions"),
    "top_caption": MetricInfo("Most frequent caption", "share of images that get it", higher_is_better=False),
    "empty_captions": MetricInfo("Empty captions", "share of captions without a word", higher_is_better=False),
    "repetition": MetricInfo(
        "Repetition", "share of bigrams that repeat an earlier one of their caption", higher_is_better=False
    ),
    "length_ratio": MetricInfo(
        "Length ratio", "words of the captions over words of their references", None, higher_is_better=None
    ),
    "vocabulary_coverage": MetricInfo(
        "Vocabulary coverage", "share of the references' words that occur in any caption"
    ),
    "copied_captions": MetricInfo(
        "Copied captions", "share that are word for word a training caption", higher_is_better=False
    ),
    "loss": MetricInfo("Loss", "cross-entropy in nats a token, teacher-forced", None, higher_is_better=False),
    "token_accuracy": MetricInfo("Token accuracy", "share of next tokens right, teacher-forced"),
}
HIGHER_IS_BETTER = {name: info.higher_is_better for name, info in METRIC_INFO.items()}
