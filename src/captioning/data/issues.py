"""What is worth telling of the data before anything is trained on them, and whether they are fit for it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from captioning.data.caption_checks import check_captions, check_tokens
from captioning.data.duplicates import HASH_BYTES, clusters
from captioning.data.rows import RowIssue, Rows, describe
from captioning.data.splits import leaks

if TYPE_CHECKING:
    from captioning.data.cache import ImageInfo

LEFT_OUT, LEAK, NOTICE = SEVERITIES = ("left out", "leak", "notice")

SMALL_SIDE, LARGE_IMAGE = 32, 50_000_000  # pixels of a side, and of an image
LONG_RATIO = 5
USUAL_MODES = ("RGB", "L", "P", "RGBA")
FEW_IMAGES = 20
KINDS_SHOWN = 3  # in a line
ALL_NAMES = "`captioning check` names all"


class Issue(NamedTuple):
    """Something worth telling.

    ``severity`` is ``left out`` (not trained on), ``leak`` (near-duplicates on two sides of given splits) or ``notice``
    (used, but worth a look). ``names`` has all that it was found of: ids, ``a ~ b`` for a pair, a file and its line,
    or, where the kind says so, words.
    """

    severity: str
    kind: str
    names: list[str]

    def __str__(self) -> str:
        return f"{self.severity}: {describe([RowIssue(self.kind, name) for name in self.names])}"


@dataclass(frozen=True)
class DataReport:
    """What is known of the data once every image was looked at, before anything is trained on them.

    Attributes:
        rows: those that can be used.
        facts: of each row's image.
        splits: row numbers of each split.
        pairs: row numbers of near-duplicates, exact ones among them.
        findings: all that is worth telling.
        seen: how many rows and files were looked at, good and bad.
    """

    rows: Rows
    facts: "list[ImageInfo]"
    splits: dict[str, list[int]]
    pairs: list[tuple[int, int]]
    findings: list[Issue]
    seen: int

    @property
    def left_out(self) -> int:
        """How many of the rows and files that were seen can't be used."""
        return sum(len(finding.names) for finding in self.findings if finding.severity == LEFT_OUT)

    @property
    def leaks(self) -> int:
        """How many validation and test images are near-duplicates, or of the group, of one on another side."""
        return sum(len(finding.names) for finding in self.findings if finding.severity == LEAK)

    def stop(self, *, strict: bool, max_bad_share: float) -> str | None:
        """The one line that stops a run, or None where the data are fit to train on.

        Args:
            strict: stop for anything that is left out, and for any leak.
            max_bad_share: else stop where more than this share of what was seen is left out.
        """
        bad = _described(self.findings, LEFT_OUT)
        if not len(self.rows.table):
            return f"nothing usable among the {self.seen:,} seen{bad and f': {bad}'}"
        left_out = f"{self.left_out:,} of {self.seen:,} left out"
        if strict and (self.left_out or self.leaks):
            reasons = [f"{left_out} ({bad})"] if bad else []
            reasons += [f"{_pairs(self.leaks)} ({_described(self.findings, LEAK)})"] if self.leaks else []
            return (
                f"data.strict=true doesn't allow for {' and '.join(reasons)}; mend or remove them ({ALL_NAMES}), or go "
                "on all the same with data.strict=false"
            )
        if self.left_out > max_bad_share * self.seen:
            enough = -(-100 * self.left_out // self.seen) / 100
            return (
                f"{left_out}, more than data.max_bad_share={max_bad_share:g}: {bad}; mend or remove them "
                f"({ALL_NAMES}), or go on with the rest by data.max_bad_share={enough:g}"
            )
        return None

    def verdict(self, *, strict: bool, max_bad_share: float) -> str:
        """One line: ready or not ready, and why."""
        if reason := self.stop(strict=strict, max_bad_share=max_bad_share):
            return f"not ready: {reason}"
        leaks = f", and {_pairs(self.leaks)}" if self.leaks else ""
        if self.left_out:
            return f"ready, with {self.left_out:,} of {self.seen:,} left out{leaks}"
        return f"ready: {len(self.rows.table):,} images, nothing left out{leaks}"


def find(
    rows: Rows,
    facts: "Sequence[ImageInfo]",
    splits: Mapping[str, Sequence[int]],
    pairs: Sequence[tuple[int, int]],
    *,
    tokenizer: Any | None,
    max_caption_tokens: int,
) -> list[Issue]:
    """Everything worth telling of the data, each with all its names, the gravest first.

    Args:
        rows: those that can be used; what was left out is among their problems.
        facts: of each row's image.
        splits: row numbers of each split.
        pairs: row numbers of near-duplicates, exact ones among them.
        tokenizer: of the model to be trained; None where there is none, which leaves out what it would tell.
        max_caption_tokens: longer captions are cut.
    """
    ids, captions = rows.ids, rows.captions
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for problem in rows.issues:
        found[LEFT_OUT, problem.kind].append(problem.name)
    for severity_and_kind, same in pairs_by_finding(pairs, facts, splits).items():
        found[severity_and_kind] = [f"{ids[first]} ~ {ids[second]}" for first, second in same]
    for first, second in leaks(splits, clusters(len(ids), [], rows.column("group"))):
        found[LEAK, "images of one group, on two sides"].append(f"{ids[first]} ~ {ids[second]}")
    for split in ("val", "test"):
        if 0 < len(splits.get(split, ())) < FEW_IMAGES:
            kind = f"split of fewer than {FEW_IMAGES} images, whose numbers are noise"
            found[NOTICE, kind].append(f"{split} ({len(splits[split])})")
    for name, image in zip(ids, facts, strict=True):
        for kind in _odd_image(image):
            found[NOTICE, kind].append(name)
    for kind, names in check_captions(ids, captions):
        found[NOTICE, kind] = names
    if tokenizer is not None:
        for kind, names in check_tokens(ids, captions, tokenizer=tokenizer, max_caption_tokens=max_caption_tokens):
            found[NOTICE, kind] = names
    return by_severity([Issue(severity, kind, names) for (severity, kind), names in found.items()])


def by_severity(findings: Sequence[Issue]) -> list[Issue]:
    """The findings by severity, and of one severity those with the most names first."""
    return sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), -len(finding.names)))


def pairs_by_finding(
    pairs: Sequence[tuple[int, int]], facts: "Sequence[ImageInfo]", splits: Mapping[str, Sequence[int]]
) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Near-duplicates by severity and kind of the finding that they are."""
    split_of = {row: split for split, numbers in splits.items() for row in numbers}
    kinds: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for first, second in pairs:
        if split_of.get(first) == split_of.get(second):
            kinds[NOTICE, _alike(facts, first, second)].append((first, second))
    # Of what is alike not every two are a pair: a chain of them may be, whose ends are on two sides.
    for first, second in leaks(splits, clusters(len(facts), pairs, [None] * len(facts))):
        both = f"in {split_of[first]} and {split_of[second]}"
        kinds[LEAK, f"{_alike(facts, first, second)}, {both}"].append((first, second))
    return kinds


def _alike(facts: "Sequence[ImageInfo]", first: int, second: int) -> str:
    return "the same image twice" if facts[first].digest == facts[second].digest else "near-duplicates"


def _odd_image(image: "ImageInfo") -> Iterator[str]:
    width, height = image.width, image.height
    if min(width, height) < SMALL_SIDE:
        yield f"image with a side under {SMALL_SIDE} pixels"
    if max(width, height) > LONG_RATIO * min(width, height):
        yield f"image more than {LONG_RATIO} times as long as wide: little of it is left in a square"
    if width * height > LARGE_IMAGE:
        yield f"image of over {LARGE_IMAGE // 1_000_000} megapixels, which takes long to read"
    if image.mode not in USUAL_MODES:
        yield f"image in mode {image.mode}, converted to RGB"
    if image.turned:
        yield "image turned upright as its EXIF says"
    if image.frames > 1:
        yield "animated image, of which the first frame is used"
    if _is_plain(image.look):
        yield "image of a single color"


def _is_plain(look: bytes) -> bool:
    cells = look[HASH_BYTES:]  # of a small RGB copy
    return bool(cells) and all(max(levels) - min(levels) <= 1 for levels in (cells[0::3], cells[1::3], cells[2::3]))


def _described(findings: Sequence[Issue], severity: str) -> str:
    """The most frequent kinds of a severity, each with its number and its first names."""
    kinds = [finding for finding in findings if finding.severity == severity]
    shown = [RowIssue(kind, name) for _, kind, names in kinds[:KINDS_SHOWN] for name in names]
    return describe(shown) + (f"; and {len(kinds) - KINDS_SHOWN} more kinds" if len(kinds) > KINDS_SHOWN else "")


def _pairs(count: int) -> str:
    return f"{count:,} pair{'s' * (count != 1)} on two sides of the splits"
