"""The numbers in words, for those who read them in a table."""

from typing import NamedTuple

FEW_PICTURES = 100  # below it CIDEr-D's n-gram weights and the intervals are noisy


class Meaning(NamedTuple):
    """What a number is; ``top`` is the end of its range, None where it has none."""

    label: str
    words: str
    top: float | None = 1


MEANINGS = {
    "wer": Meaning("Word error rate (WER)", "word edits to the nearest reference, over its words", None),
    "cer": Meaning("Character error rate (CER)", "the same over characters", None),
    "bleu1": Meaning("BLEU-1", "precision of single words, marked down for brevity"),
    "bleu2": Meaning("BLEU-2", "the same for up to 2 words in a row"),
    "bleu3": Meaning("BLEU-3", "the same for up to 3 words in a row"),
    "bleu4": Meaning("BLEU-4", "the same for up to 4 words in a row"),
    "rouge_l": Meaning("ROUGE-L", "F-score of the longest common subsequence of words"),
    "cider": Meaning("CIDEr-D", "likeness to all references, telling words weighing more", 10),
    "exact_match": Meaning("Exact match", "share of captions that equal a reference"),
    "unique_captions": Meaning("Unique captions", "different captions over captions"),
    "top_caption": Meaning("Most frequent caption", "share of pictures that get it"),
    "empty_captions": Meaning("Empty captions", "share of captions without a word"),
    "repetition": Meaning("Repetition", "share of word pairs that their caption has said before"),
    "length_ratio": Meaning("Length ratio", "words of the captions over words of their references", None),
    "vocabulary_coverage": Meaning("Vocabulary coverage", "share of the references' words that occur in any caption"),
    "copied_captions": Meaning("Copied captions", "share that are word for word a training caption"),
    "loss": Meaning("Loss", "nats a token, the true caption given so far", None),
    "token_accuracy": Meaning("Token accuracy", "share of next tokens right, the true caption given so far"),
}
