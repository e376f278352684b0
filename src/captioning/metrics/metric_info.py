"""The metrics in words, for those who read them in a table."""

from typing import NamedTuple

FEW_IMAGES = 100  # below it CIDEr-D's n-gram weights and the intervals are noisy


class MetricInfo(NamedTuple):
    """What a metric is; ``max`` is the end of its range, None where it has none."""

    label: str
    description: str
    max: float | None = 1


METRIC_INFO = {
    "wer": MetricInfo("Word error rate (WER)", "word edits to the nearest reference, over its words", None),
    "cer": MetricInfo("Character error rate (CER)", "the same over characters", None),
    "bleu1": MetricInfo("BLEU-1", "precision of single words, with a penalty for brevity"),
    "bleu2": MetricInfo("BLEU-2", "the same for up to 2 words in a row"),
    "bleu3": MetricInfo("BLEU-3", "the same for up to 3 words in a row"),
    "bleu4": MetricInfo("BLEU-4", "the same for up to 4 words in a row"),
    "rouge_l": MetricInfo("ROUGE-L", "F-score of the longest common subsequence of words"),
    "cider": MetricInfo("CIDEr-D", "TF-IDF-weighted n-gram similarity to all references", 10),
    "exact_match": MetricInfo("Exact match", "share of captions that equal a reference"),
    "unique_captions": MetricInfo("Unique captions", "different captions over captions"),
    "top_caption": MetricInfo("Most frequent caption", "share of images that get it"),
    "empty_captions": MetricInfo("Empty captions", "share of captions without a word"),
    "repetition": MetricInfo("Repetition", "share of bigrams that repeat an earlier one of their caption"),
    "length_ratio": MetricInfo("Length ratio", "words of the captions over words of their references", None),
    "vocabulary_coverage": MetricInfo(
        "Vocabulary coverage", "share of the references' words that occur in any caption"
    ),
    "copied_captions": MetricInfo("Copied captions", "share that are word for word a training caption"),
    "loss": MetricInfo("Loss", "cross-entropy in nats a token, teacher-forced", None),
    "token_accuracy": MetricInfo("Token accuracy", "share of next tokens right, teacher-forced"),
}
