"""Test captions beside their references: which to show, what differs, which words and captions are frequent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import accumulate, groupby
from typing import NamedTuple

from captioning.data.statistics import spread
from captioning.metrics import normalize, score
from captioning.metrics.corpus import words
from captioning.metrics.error_rates import nearest_first
from captioning.runs.run_folder import Prediction

ROWS, WORST, BEST = 500, 200, 100
LONGEST_WORDS, LONGEST_LETTERS, MOST_REFERENCES = 60, 300, 5


class Part(NamedTuple):
    """A stretch of a caption that is the same in the other caption, or isn't."""

    text: str
    differs: bool


class Row(NamedTuple):
    """A test image. ``references`` has the nearest one first."""

    number: int
    id: str
    prediction: list[Part]
    references: list[list[Part]]
    more_references: int
    wer: float
    cider: float
    words: int
    exact: bool


def caption_rows(predictions: Sequence[Prediction]) -> list[Row]:
    """A row for each image that is shown, the worst caption first."""
    if not predictions:
        return []
    scores = score([line["prediction"] for line in predictions], [line["references"] for line in predictions])
    wer, cider, exact = (scores.of_images(name) for name in ("wer", "cider", "exact_match"))
    worst_first = sorted(range(len(predictions)), key=lambda number: (-wer[number], cider[number], number))
    return [
        _row(predictions[number], number, wer[number], cider[number], bool(exact[number]))
        for number in chosen(worst_first)
    ]


def chosen(worst_first: list[int]) -> list[int]:
    """Which images a report shows: at most 500, else the worst 200, the best 100, and 200 in even steps between."""
    if len(worst_first) <= ROWS:
        return worst_first
    between = spread(worst_first[WORST:-BEST], ROWS - WORST - BEST)
    return [*worst_first[:WORST], *between, *worst_first[-BEST:]]


def _row(line: Prediction, number: int, wer: float, cider: float, exact: bool) -> Row:
    prediction = line["prediction"]
    said = words(prediction)
    references = nearest_first(prediction, line["references"])
    marked, nearest = differences(prediction, references[0])
    others = [[Part(clipped(reference), False)] for reference in references[1:MOST_REFERENCES]]
    return Row(
        number=number + 1,
        id=line["id"],
        prediction=marked,
        references=[nearest, *others],
        more_references=max(0, len(references) - MOST_REFERENCES),
        wer=wer,
        cider=cider,
        words=len(said),
        exact=exact,
    )


def equals_a_reference(prediction: str, references: Iterable[str]) -> bool:
    """Whether a caption is one of the references, after normalization."""
    return words(prediction) in map(words, references)


def clipped(caption: str) -> str:
    """A caption of a length that a page can bear, with the number of its words where some are left out."""
    return "".join(_clip(caption))


def _clip(caption: str) -> tuple[str, str]:
    """The start of a caption and, where that isn't all of it, what to say of the rest."""
    count = len(caption.split())
    found = re.match(rf"\s*(?:\S+\s+){{0,{LONGEST_WORDS - 1}}}\S*", caption)
    start = found.group()[:LONGEST_LETTERS].rstrip() if found else ""
    if len(start) == len(caption.rstrip()):
        return caption, ""
    return start, f" … ({count:,} word{'s' * (count != 1)})"


def differences(prediction: str, reference: str) -> tuple[list[Part], list[Part]]:
    """Both captions in parts: which words the prediction has too many, and which of the reference it lacks.

    Words are compared after normalization, so that neither case nor punctuation is ever marked.
    """
    (mine, rest_of_mine), (theirs, rest_of_theirs) = _clip(prediction), _clip(reference)
    my_tokens, their_tokens = _tokens(mine), _tokens(theirs)
    my_words, their_words = ([word for _, keys in tokens for word in keys] for tokens in (my_tokens, their_tokens))
    blocks = SequenceMatcher(None, my_words, their_words, autojunk=False).get_matching_blocks()
    mine_same = {block.a + i for block in blocks for i in range(block.size)}
    theirs_same = {block.b + i for block in blocks for i in range(block.size)}
    return _parts(my_tokens, mine_same, rest_of_mine), _parts(their_tokens, theirs_same, rest_of_theirs)


Token = tuple[str, list[str]]  # a piece of a caption, and its words as metrics see them


def _tokens(caption: str) -> list[Token]:
    """A caption cut between words, Chinese characters being words."""
    pieces = re.findall(r"\s+|[\u3400-\u9fff\U00020000-\U0003ffff]|[^\s\u3400-\u9fff\U00020000-\U0003ffff]+", caption)
    return [(piece, normalize(piece).split()) for piece in pieces]


def _parts(tokens: list[Token], same: set[int], rest: str) -> list[Part]:
    """Runs of pieces that differ or don't; one without a word (a space, a dash) differs where both its sides do."""
    flags: list[bool | None] = []
    position = 0
    for _, keys in tokens:
        flags.append(not same.issuperset(range(position, position + len(keys))) if keys else None)
        position += len(keys)
    before = list(accumulate(flags, _latest))
    after = list(accumulate(reversed(flags), _latest))[::-1]
    marked = [(piece, bool(b and a)) for (piece, _), b, a in zip(tokens, before, after, strict=True)]
    runs = groupby([*marked, (rest, False)], key=lambda pair: pair[1])
    return [Part("".join(piece for piece, _ in run), differs) for differs, run in runs]


def _latest(last: bool | None, flag: bool | None) -> bool | None:
    return last if flag is None else flag


class Usage(NamedTuple):
    """How often a word occurs in 100 captions."""

    word: str
    predictions: float
    references: float


def word_usage(predictions: Sequence[str], references: Sequence[str], top: int = 15) -> tuple[list[Usage], list[Usage]]:
    """Words that the references use more than the predictions, and the other way round, by size of the difference."""
    said, true = (
        Counter(word for caption in captions for word in words(caption)) for captions in (predictions, references)
    )
    usages = [
        Usage(word, 100 * said[word] / len(predictions), 100 * true[word] / len(references)) for word in said | true
    ]
    usages.sort(key=lambda usage: (usage.references - usage.predictions, usage.word))
    more = [usage for usage in usages if usage.predictions > usage.references]
    less = [usage for usage in reversed(usages) if usage.references > usage.predictions]
    return less[:top], more[:top]


def frequent_captions(predictions: Sequence[str], top: int = 10) -> list[tuple[str, int, float]]:
    """The captions said more than once, after normalization, with their number and their share; the commonest first."""
    counts = Counter(map(normalize, predictions)).most_common(top)
    return [(caption, count, count / len(predictions)) for caption, count in counts if count > 1]
