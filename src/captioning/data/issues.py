"""Issues of the data, found before anything is trained on them, and whether they allow a training."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from captioning.data.caption_checks import check_captions, check_tokens
from captioning.data.duplicates import HASH_BYTES, clusters
from captioning.data.rows import RowIssue, Rows, describe
from captioning.data.splits import leaks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from captioning.data.cache import ImageInfo

LEFT_OUT, LEAK, NOTICE = SEVERITIES = ("left out", "leak", "notice")

SMALL_SIDE, LARGE_IMAGE = 32, 50_000_000  # pixels of a side, and of an image
LONG = 5  # times its short side
USUAL_MODES = ("RGB", "L", "P", "RGBA")
FEW_IMAGES = 20
KINDS_SHOWN = 3  # in a line
FIX = "fix or remove them (`captioning check` names all)"


class Issue(NamedTuple):
    """A kind of issue with the names of all that have it."""

    severity: str  # left out (not trained on), leak (on two sides of given splits), or notice (used all the same)
    kind: str
    names: list[str]  # ids, "a ~ b" for a pair, a file and its line, or, where the kind says so, words

    def __str__(self) -> str:
        return f"{self.severity}: {describe([RowIssue(self.kind, name) for name in self.names])}"


@dataclass(frozen=True)
class DataReport:
    """What reading, decoding and splitting the data found."""

    rows: Rows  # those that can be used
    image_infos: "list[ImageInfo]"  # of each row
    splits: dict[str, list[int]]  # row numbers
    pairs: list[tuple[int, int]]  # row numbers of near-duplicates, exact ones among them
    issues: list[Issue]  # by severity
    total: int  # how many rows and files were read, good and bad

    @property
    def left_out(self) -> int:
        """How many of the rows and files can't be used."""
        return sum(len(issue.names) for issue in self.issues if issue.severity == LEFT_OUT)

    @property
    def leaks(self) -> int:
        """How many validation and test images are near-duplicates, or of the group, of one on another side."""
        return sum(len(issue.names) for issue in self.issues if issue.severity == LEAK)

    def blocking_reason(self, *, strict: bool, max_bad_share: float) -> str | None:
        """Why the data can't be trained on, in one line; None where they can."""
        bad, leaks = self._describe(LEFT_OUT), self._describe(LEAK)
        if not len(self.rows.table):
            return f"nothing usable among the {self.total:,} seen{bad and f': {bad}'}"
        left_out = f"{self.left_out:,} of {self.total:,} left out"
        if strict and (bad or leaks):
            reasons = [f"{left_out} ({bad})"] if bad else []
            reasons += [f"{_count_pairs(self.leaks)} ({leaks})"] if leaks else []
            return f"data.strict=true doesn't allow for {' and '.join(reasons)}; {FIX}, or set data.strict=false"
        if self.left_out > max_bad_share * self.total:
            enough = f"data.max_bad_share={-(-100 * self.left_out // self.total) / 100:g}"
            why = f"{left_out}, more than data.max_bad_share={max_bad_share:g}: {bad}"
            return f"{why}; {FIX}, or use the rest with {enough}"
        return None

    def summary(self, *, strict: bool, max_bad_share: float) -> str:
        """One line: ready or not ready, and why."""
        if reason := self.blocking_reason(strict=strict, max_bad_share=max_bad_share):
            return f"not ready: {reason}"
        left_out = f", with {self.left_out:,} of {self.total:,} left out"
        whole = f": {len(self.rows.table):,} images, nothing left out"
        return f"ready{left_out if self.left_out else whole}{f', and {_count_pairs(self.leaks)}' if self.leaks else ''}"

    def _describe(self, severity: str) -> str:
        kinds = [issue for issue in self.issues if issue.severity == severity]
        shown = [RowIssue(kind, name) for _, kind, names in kinds[:KINDS_SHOWN] for name in names]
        return describe(shown) + (f"; and {len(kinds) - KINDS_SHOWN} more kinds" if kinds[KINDS_SHOWN:] else "")


def find_issues(
    rows: Rows,
    image_infos: "Sequence[ImageInfo]",
    splits: Mapping[str, Sequence[int]],
    pairs: Sequence[tuple[int, int]],
    *,
    tokenizer: "PreTrainedTokenizerBase | None",
    max_caption_tokens: int,
) -> list[Issue]:
    """All issues of the data, by severity; without a tokenizer, captions aren't measured in tokens."""
    ids, captions = rows.ids, rows.captions
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, name in rows.issues:
        found[LEFT_OUT, kind].append(name)
    for issue, same in pairs_by_issue(pairs, image_infos, splits).items():
        found[issue] = [f"{ids[first]} ~ {ids[second]}" for first, second in same]
    for first, second in leaks(splits, clusters(len(ids), [], rows.column("group"))):
        found[LEAK, "images of one group, on two sides"].append(f"{ids[first]} ~ {ids[second]}")
    for split in ("val", "test"):
        if 0 < len(splits.get(split, ())) < FEW_IMAGES:
            kind = f"split of fewer than {FEW_IMAGES} images, whose numbers are noise"
            found[NOTICE, kind].append(f"{split} ({len(splits[split])})")
    for name, image in zip(ids, image_infos, strict=True):
        for kind in _check_image(image):
            found[NOTICE, kind].append(name)
    odd = [*check_captions(ids, captions)]
    if tokenizer is not None:
        odd += check_tokens(ids, captions, tokenizer=tokenizer, max_caption_tokens=max_caption_tokens)
    found |= {(NOTICE, kind): names for kind, names in odd}
    return by_severity([Issue(severity, kind, names) for (severity, kind), names in found.items()])


def by_severity(issues: Sequence[Issue]) -> list[Issue]:
    """The issues by severity; those of one severity with the most names first."""
    return sorted(issues, key=lambda issue: (SEVERITIES.index(issue.severity), -len(issue.names)))


def pairs_by_issue(
    pairs: Sequence[tuple[int, int]], image_infos: "Sequence[ImageInfo]", splits: Mapping[str, Sequence[int]]
) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Near-duplicates by the severity and kind of their issue."""

    def kind_of(first: int, second: int) -> str:
        same = image_infos[first].digest == image_infos[second].digest
        return "the same image twice" if same else "near-duplicates"

    split_of = {row: split for split, numbers in splits.items() for row in numbers}
    kinds: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for first, second in pairs:
        if split_of.get(first) == split_of.get(second):
            kinds[NOTICE, kind_of(first, second)].append((first, second))
    # Not every two of a cluster are a pair: the ends of a chain of them may be on two sides.
    for first, second in leaks(splits, clusters(len(image_infos), pairs, [None] * len(image_infos))):
        kinds[LEAK, f"{kind_of(first, second)}, in {split_of[first]} and {split_of[second]}"].append((first, second))
    return kinds


def _check_image(image: "ImageInfo") -> list[str]:
    short, long = sorted((image.width, image.height))
    cells = image.perceptual_hash[HASH_BYTES:]  # of the thumbnail
    kinds = {
        f"image with a side under {SMALL_SIDE} pixels": short < SMALL_SIDE,
        f"image more than {LONG} times as long as wide: little of it is left in a square": long > LONG * short,
        f"image of over {LARGE_IMAGE // 1_000_000} megapixels, which takes long to read": long * short > LARGE_IMAGE,
        f"image in mode {image.mode}, converted to RGB": image.mode not in USUAL_MODES,
        "image turned upright as its EXIF says": image.rotated,
        "animated image, of which the first frame is used": image.frames > 1,
        "image of a single color": cells and all(max(cells[c::3]) - min(cells[c::3]) <= 1 for c in range(3)),
    }
    return [kind for kind, applies in kinds.items() if applies]


def _count_pairs(count: int) -> str:
    return f"{count:,} pair{'s' * (count != 1)} on two sides of the splits"
