"""Images that show the same: copies, resized or re-encoded ones, slightly brighter or cropped ones."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_CELLS = 8  # the hash and the thumbnail have 8 rows of 8 cells
_GRID = _CELLS * (_CELLS + 1)  # pixels a side: 8 cells and 9 cells both come out even
HASH_BYTES = 32  # the first of a look
LOOK_BYTES = HASH_BYTES + _CELLS * _CELLS * 3

# Chosen by measurement on photographs, drawings and emoji, and on copies of them; see near_duplicates.
_STEP = 3  # levels of 255 between neighbouring cells that count as a step in brightness
_MAX_BITS = 31
_MAX_LEVELS = 16
_MAX_SHIFT = 5  # a fifth of a cell

_BANDS = 16
_BAND_BITS = 16
_CANDIDATES_AT_FIRST, _CANDIDATES_AT_ONCE = 1 << 12, 1 << 19  # the latter bounds the memory to about 100 MB
_THUMBNAILS_AT_ONCE = 1 << 12

Integers: TypeAlias = NDArray[np.int64]
Booleans: TypeAlias = NDArray[np.bool_]

# A band of neighbouring bits would be the same in all images on a plain ground: 77 is odd, so that each bit has its
# place, and spreads those of a band over the image.
_BIT_ORDER = np.arange(HASH_BYTES * 8) * 77 % (HASH_BYTES * 8)


def look(image: Image.Image) -> bytes:
    """What an image looks like at a glance, in ``LOOK_BYTES`` bytes that are the same on every machine.

    The first 32 bytes are a difference hash of rows and columns (dHash: Krawetz, "Kind of Like That", 2013,
    https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html; of columns too as in
    https://github.com/benhoyt/dhash): for each of 64 cells, whether it gets brighter, and whether darker, to the right
    and downwards. Unlike in the original, a step below 3 levels is none, so that plain grounds don't hash their noise.
    The other 192 bytes are an RGB thumbnail of 8 rows of 8 cells.

    Args:
        image: in RGB, of any size and shape.
    """
    grid = image.resize((_GRID, _GRID), Image.Resampling.BOX, reducing_gap=2.0)
    gray = np.asarray(grid.convert("L"), dtype=np.int64)
    long, short = _GRID // _CELLS, _GRID // (_CELLS + 1)
    across = gray.reshape(_CELLS, long, _CELLS + 1, short).sum((1, 3))  # sums, as means would have to be rounded
    down = gray.reshape(_CELLS + 1, short, _CELLS, long).sum((1, 3))
    steps = np.stack([np.diff(across, axis=1), np.diff(down, axis=0)])
    threshold = _STEP * long * short
    bits = np.stack([steps > threshold, steps < -threshold]).ravel()
    return np.packbits(bits[_BIT_ORDER]).tobytes() + grid.reduce(long).tobytes()


def near_duplicates(looks: NDArray[np.uint8], digests: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of rows that show the same image, as far as they are needed to connect all that do.

    Two rows are near-duplicates if their digests are equal, or if their looks are near: no more than 31 of the 256
    bits of the hash differ, nor more than half of those that are set in either (which are few in a nearly plain
    image); and no cell of the thumbnail differs, in any channel, by more than 16 levels and a fifth of the contrast
    to its neighbours (as far as a small crop moves an edge). Every two near-duplicates are connected by the pairs,
    directly or through others; there are fewer pairs than rows, however many rows are alike.

    Looks within 31 bits are found without comparing all with all, and without fail: of 16 bands of 16 bits, one at
    least differs in no more than one bit (the pigeonhole principle; Norouzi, Punjani, Fleet, "Fast Search in Hamming
    Space with Multi-Index Hashing", CVPR 2012).

    Args:
        looks: the ``look`` of each row; uint8 of shape (rows, LOOK_BYTES).
        digests: the digest of each row's encoded image.

    Returns:
        Pairs ``(i, j)`` of row numbers with ``i < j``, in ascending order.
    """
    alike = _Sets(len(looks))
    equal_looks = _equals([one.tobytes() for one in looks])
    joined = [pair for pair in (*_equals(digests), *equal_looks) if alike.join(*pair)]
    different = np.delete(np.arange(len(looks)), [row for _, row in equal_looks])
    return sorted(joined + _near_looks(looks, different, alike))


def is_near_duplicate(image: Image.Image, looks: NDArray[np.uint8]) -> bool:
    """Whether an image is a near-duplicate of one of those that have the ``looks``, (rows, LOOK_BYTES)."""
    own = np.frombuffer(look(image), np.uint8)[None]
    bits = np.bitwise_count(own[:, :HASH_BYTES] ^ looks[:, :HASH_BYTES]).sum(1)
    few = np.concatenate([own, looks[bits <= _MAX_BITS]])
    pairs = _near_hashes(_words(few), np.stack([np.zeros(len(few) - 1, dtype=np.int64), np.arange(1, len(few))]))
    thumbnails = few[:, HASH_BYTES:]
    return bool(_near_cells(thumbnails, _contrasts(thumbnails), pairs).any())


def clusters(count: int, pairs: Iterable[tuple[int, int]], groups: Sequence[str | None]) -> list[int]:
    """A number for each row; rows with the same number are connected by pairs or groups.

    Args:
        count: how many rows there are.
        pairs: row numbers that belong together.
        groups: the group of each row; rows of one group belong together. None: of no group.

    Returns:
        For each row the lowest row number of its cluster, which doesn't depend on the order of ``pairs``.
    """
    together = _Sets(count)
    for one, other in pairs:
        together.join(one, other)
    members = [row for row in range(count) if groups[row] is not None]
    for one, other in _equals([groups[row] for row in members]):
        together.join(members[one], members[other])
    return [int(row) for row in together.lowest()]


class _Sets:
    """Disjoint sets of row numbers (union-find), each known by its lowest."""

    def __init__(self, count: int):
        self._parent = np.arange(count)

    def join(self, one: int, other: int) -> bool:
        """Make their sets one; False where they are already."""
        first, second = sorted((self._find(one), self._find(other)))
        self._parent[second] = first
        return first != second

    def lowest(self) -> Integers:
        """The lowest row of the set of each row."""
        while not np.array_equal(self._parent, parents := self._parent[self._parent]):
            self._parent = parents
        return self._parent

    def _find(self, row: int) -> int:
        while (parent := int(self._parent[row])) != row:
            self._parent[row] = self._parent[parent]
            row = parent
        return row


def _equals(keys: Sequence[Hashable]) -> list[tuple[int, int]]:
    """The first row that has each key, with each later one."""
    first: dict[Hashable, int] = {}
    return [(first[key], row) for row, key in enumerate(keys) if first.setdefault(key, row) != row]


def _near_looks(looks: NDArray[np.uint8], rows: Integers, alike: _Sets) -> list[tuple[int, int]]:
    """Join ``rows``, whose looks all differ, where their looks are near; the pairs that did so."""
    hashes = np.ascontiguousarray(looks[rows, :HASH_BYTES]).view(np.uint16)  # (rows, bands)
    thumbnails = looks[rows, HASH_BYTES:]
    contrasts = _contrasts(thumbnails)
    joined: list[tuple[int, int]] = []
    for band in range(_BANDS):
        order = np.argsort(hashes[:, band], kind="stable")
        values, words = hashes[order, band], _words(looks[rows[order], :HASH_BYTES])
        for flipped in (0, *(1 << bit for bit in range(_BAND_BITS))):
            for pairs in _candidates(values, flipped, rows[order], alike):
                pairs = order[_near_hashes(words, pairs)]
                pairs = pairs[:, _first_met(hashes, pairs, band)]
                # A few cells tell most of the different ones.
                for cells in (slice(None, None, 17), slice(None)):
                    pairs = pairs[:, _near_cells(thumbnails[:, cells], contrasts[:, cells], pairs)]
                joined += [(i, j) for i, j in np.sort(rows[pairs].T).tolist() if alike.join(i, j)]
    return joined


def _words(looks: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The hashes as 64-bit words, of shape (4, rows)."""
    return np.ascontiguousarray(np.ascontiguousarray(looks[:, :HASH_BYTES]).view(np.uint64).T)


def _candidates(values: NDArray[np.uint16], flipped: int, rows: Integers, alike: _Sets) -> Iterator[Integers]:
    """Pairs of positions whose ``values``, which ascend, differ in just the bits ``flipped``, some at a time.

    Most of those that are of one set when it is their turn are left out: thousands that are alike are joined by the
    first of them, and don't become quadratic.
    """
    wanted = values ^ np.uint16(flipped)
    starts = np.searchsorted(values, wanted, side="left")
    ends = np.searchsorted(values, wanted, side="right")
    starts = np.maximum(starts, np.arange(len(values)) + 1)  # each pair once, from its earlier end
    left = np.flatnonzero(starts < ends)
    at_once = _CANDIDATES_AT_FIRST
    while len(left):
        of = alike.lowest()[rows]
        changes = np.concatenate([[0], np.cumsum(of[1:] != of[:-1])])
        one_set = (of[starts[left]] == of[left]) & (changes[starts[left]] == changes[ends[left] - 1])
        left = left[~one_set]
        counts = ends[left] - starts[left]
        now = max(1, int(np.searchsorted(counts.cumsum(), at_once, side="right")))
        counts, firsts = counts[:now], starts[left[:now]]
        offsets = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        pairs = np.stack([np.repeat(left[:now], counts), np.repeat(firsts, counts) + offsets])
        apart = np.repeat(of[left[:now]], counts) != of[pairs[1]]
        # A few of one set cost less than a copy of the rest.
        yield pairs if 2 * apart.sum() > len(apart) else pairs[:, apart]
        left, at_once = left[now:], min(2 * at_once, _CANDIDATES_AT_ONCE)


def _near_hashes(words: NDArray[np.uint64], pairs: Integers) -> Integers:
    """The ``pairs``, of shape (2, pairs), that have near hashes; ``words`` of shape (4, positions)."""
    bits = sum(np.bitwise_count(word[pairs[0]] ^ word[pairs[1]]) for word in words[:2])
    pairs = pairs[:, bits <= _MAX_BITS]  # half of the hash tells most of the different ones
    one, other = words[:, pairs[0]], words[:, pairs[1]]
    differing, either = (np.bitwise_count(both).sum(0, dtype=np.int64) for both in (one ^ other, one | other))
    return pairs[:, (differing <= _MAX_BITS) & (2 * differing <= either)]


def _first_met(hashes: NDArray[np.uint16], pairs: Integers, band: int) -> Booleans:
    """Whether none of the bands before ``band`` made the pair a candidate already."""
    one, other = hashes[pairs, :band]
    met: Booleans = (np.bitwise_count(one ^ other) <= 1).any(1)
    return ~met


def _near_cells(thumbnails: NDArray[np.uint8], contrasts: NDArray[np.uint8], pairs: Integers) -> Booleans:
    """Whether all cells of each pair are near; ``thumbnails`` and ``contrasts`` of shape (images, cells)."""
    near: Booleans = np.ones(pairs.shape[1], dtype=np.bool_)
    for start in range(0, len(near), _THUMBNAILS_AT_ONCE):
        some = slice(start, start + _THUMBNAILS_AT_ONCE)
        one, other = thumbnails[pairs[:, some]].astype(np.int16)
        allowed = _MAX_LEVELS * _MAX_SHIFT + contrasts[pairs[:, some]].max(0).astype(np.int16)
        near[some] = (_MAX_SHIFT * abs(one - other) <= allowed).all(1)
    return near


def _contrasts(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How far the highest of each cell and its neighbours is above the lowest; of the shape of ``thumbnails``."""
    cells = thumbnails.reshape(-1, _CELLS, _CELLS, 3)
    padded = np.pad(cells, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    highest, lowest = cells, cells
    for down in range(3):
        for across in range(3):
            neighbours = padded[:, down : down + _CELLS, across : across + _CELLS]
            highest, lowest = np.maximum(highest, neighbours), np.minimum(lowest, neighbours)
    return (highest - lowest).reshape(thumbnails.shape)
