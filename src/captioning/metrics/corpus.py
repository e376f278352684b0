"""Generated captions beside their references, normalized and cut into words once for all metrics."""

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from sys import intern

from captioning.errors import UserError
from captioning.metrics.text import normalize

Words = tuple[str, ...]
NGram = tuple[str, ...]


class Corpus:
    """A prediction and its references, one or more, for each image, as words; training captions are normalized.

    Raises:
        UserError: there is no image, or one without a reference; no number is defined then.
    """

    def __init__(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], training_captions: Set[str] | None = None
    ) -> None:
        if len(predictions) != len(references):
            raise UserError(f"{len(predictions)} predictions, but references for {len(references)} images")
        if not predictions:
            raise UserError("there are no captions to score")
        if lacking := next((number for number, truths in enumerate(references, start=1) if not truths), None):
            raise UserError(f"image {lacking} has no reference to score its caption against")
        self.predictions = list(map(words, predictions))
        self.references = [list(map(words, truths)) for truths in references]
        self.training_captions = training_captions

    def __len__(self) -> int:
        return len(self.predictions)

    def __iter__(self) -> Iterator[tuple[Words, list[Words]]]:
        return zip(self.predictions, self.references, strict=True)


def words(caption: str) -> Words:
    """The words that every metric counts."""
    return tuple(map(intern, normalize(caption).split()))  # interned: a corpus repeats few words many times


def ngram_counts(caption: Words, longest: int = 4) -> Counter[NGram]:
    """How often each n-gram of 1 to ``longest`` words occurs in a caption."""
    return Counter(caption[start : start + n] for n in range(1, longest + 1) for start in range(len(caption) - n + 1))
