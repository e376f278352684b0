"""Images that show the same: copies, resized or re-encoded ones, slightly brighter or cropped ones."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_CELLS = 8  # the hash and the thumbnail have 8 rows of 8 cells
_GRID = _CELLS * (_CELLS + 1)  # pixels a side: 8 cells and 9 cells both come out even
HASH_BYTES = 32  # of the difference hash, which comes first
PERCEPTUAL_HASH_BYTES = HASH_BYTES + _CELLS * _CELLS * 3

# Chosen by measurement on photographs, drawings and emoji, and on copies of them; see near_duplicates.
_STEP = 3  # levels of 255 between neighboring cells that count as a step in brightness
_MAX_BITS = 31
_MAX_LEVELS = 16
_MAX_SHIFT = 5  # a fifth of a cell

_BANDS = 16
_BAND_BITS = 16
_CANDIDATES_AT_FIRST, _CANDIDATES_AT_ONCE = 1 << 12, 1 << 19  # the latter bounds the memory to about 100 MB
_THUMBNAILS_AT_ONCE = 1 << 12

Integers: TypeAlias = NDArray[np.int64]
Booleans: TypeAlias = NDArray[np.bool_]
Hashes: TypeAlias = NDArray[np.uint8]

# A band of neighboring bits would be the same in all images on a plain ground: 77 is odd, so that each bit has its
# place, and spreads those of a band over the image.
_BIT_ORDER = np.arange(HASH_BYTES * 8) * 77 % (HASH_BYTES * 8)


def perceptual_hash(image: Image.Image) -> bytes:
    """A hash of an RGB image, ``PERCEPTUAL_HASH_BYTES`` long and the same on every machine.

    The first 32 bytes are a difference hash of rows and columns (dHash: Krawetz, "Kind of Like That", 2013,
    https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html): for each of 64 cells, whether it
    gets brighter, and whether darker, to the right and downwards. A step below 3 levels is none, so that plain grounds
    don't hash their noise. The other 192 bytes are an RGB thumbnail of 8 rows of 8 cells.
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


def near_duplicates(hashes: Hashes, digests: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of rows that show the same image, as few as connect all that do.

    Two rows are near-duplicates if their digests are equal, or if their perceptual hashes are near: at most 31 of the
    256 bits of the difference hash differ, and at most half of those that are set in either (which are few in a nearly
    plain image); and no cell of the thumbnail differs, in any channel, by more than 16 levels and a fifth of the
    contrast to its neighbors (as far as a small crop moves an edge).

    Hashes within 31 bits are found without comparing all with all, and without fail: of 16 bands of 16 bits, one at
    least differs in at most one bit (the pigeonhole principle; Norouzi, Punjani, Fleet, "Fast Search in Hamming
    Space with Multi-Index Hashing", CVPR 2012).

    ``hashes`` are perceptual ones, uint8 (rows, PERCEPTUAL_HASH_BYTES); ``digests`` are those of the encoded images.
    """
    sets = _DisjointSets(len(hashes))
    equal_hashes = _equal_pairs([one.tobytes() for one in hashes])
    joined = [pair for pair in (*_equal_pairs(digests), *equal_hashes) if sets.join(*pair)]
    rows = np.delete(np.arange(len(hashes)), [row for _, row in equal_hashes])
    bands = np.ascontiguousarray(hashes[rows, :HASH_BYTES]).view(np.uint16)  # (rows, bands)
    thumbnails = hashes[rows, HASH_BYTES:]
    contrasts = _contrasts(thumbnails)
    for band in range(_BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        values, words = bands[order, band], _words(hashes[rows[order]])
        for flipped in (0, *(1 << bit for bit in range(_BAND_BITS))):
            for pairs in _candidates(values, flipped, rows[order], sets):
                pairs = order[_near_hashes(words, pairs)]
                # An earlier band has made these candidates already.
                pairs = pairs[:, (np.bitwise_count(bands[pairs[0], :band] ^ bands[pairs[1], :band]) > 1).all(1)]
                # A few cells tell most of the different ones.
                for cells in (slice(None, None, 17), slice(None)):
                    pairs = pairs[:, _near_cells(thumbnails[:, cells], contrasts[:, cells], pairs)]
                joined += [(i, j) for i, j in np.sort(rows[pairs].T).tolist() if sets.join(i, j)]
    return sorted(joined)


def is_near_duplicate(image: Image.Image, hashes: Hashes) -> bool:
    """Whether an image is a near-duplicate of one with these perceptual hashes, (rows, PERCEPTUAL_HASH_BYTES)."""
    own = np.frombuffer(perceptual_hash(image), np.uint8)[None]
    bits = np.bitwise_count(own[:, :HASH_BYTES] ^ hashes[:, :HASH_BYTES]).sum(1)
    few = np.concatenate([own, hashes[bits <= _MAX_BITS]])
    pairs = _near_hashes(_words(few), np.stack([np.zeros(len(few) - 1, dtype=np.int64), np.arange(1, len(few))]))
    thumbnails = few[:, HASH_BYTES:]
    return bool(_near_cells(thumbnails, _contrasts(thumbnails), pairs).any())


def clusters(count: int, pairs: Iterable[tuple[int, int]], groups: Sequence[str | None]) -> list[int]:
    """The lowest row number of each row's cluster: all rows that pairs, or equal groups, connect with it."""
    sets = _DisjointSets(count)
    of_groups = _equal_pairs([row if group is None else group for row, group in enumerate(groups)])
    for one, other in (*pairs, *of_groups):
        sets.join(one, other)
    return [int(row) for row in sets.lowest()]


class _DisjointSets:
    """Disjoint sets of row numbers (union-find), each known by its lowest."""

    def __init__(self, count: int):
        self._parent = np.arange(count)

    def join(self, one: int, other: int) -> bool:
        first, second = sorted((self._find(one), self._find(other)))
        self._parent[second] = first
        return first != second

    def lowest(self) -> Integers:
        while not np.array_equal(self._parent, parents := self._parent[self._parent]):
            self._parent = parents
        return self._parent

    def _find(self, row: int) -> int:
        while (parent := int(self._parent[row])) != row:
            self._parent[row] = self._parent[parent]
            row = parent
        return row


def _equal_pairs(keys: Sequence[Hashable]) -> list[tuple[int, int]]:
    """The first row that has each key, with each later one."""
    first: dict[Hashable, int] = {}
    return [(first[key], row) for row, key in enumerate(keys) if first.setdefault(key, row) != row]


def _words(hashes: Hashes) -> NDArray[np.uint64]:
    """The difference hashes as 64-bit words, of shape (4, rows)."""
    return np.ascontiguousarray(np.ascontiguousarray(hashes[:, :HASH_BYTES]).view(np.uint64).T)


def _candidates(values: NDArray[np.uint16], flipped: int, rows: Integers, sets: _DisjointSets) -> Iterator[Integers]:
    """Pairs of positions whose ascending ``values`` differ in just the bits ``flipped``, some at a time.

    Pairs inside one set are left out, mostly, or thousands of equal images would make millions of them.
    """
    wanted = values ^ np.uint16(flipped)
    starts = np.searchsorted(values, wanted, side="left")
    ends = np.searchsorted(values, wanted, side="right")
    starts = np.maximum(starts, np.arange(len(values)) + 1)  # each pair once, from its earlier end
    left = np.flatnonzero(starts < ends)
    at_once = _CANDIDATES_AT_FIRST
    while len(left):
        of = sets.lowest()[rows]
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


def _near_cells(thumbnails: Hashes, contrasts: Hashes, pairs: Integers) -> Booleans:
    """Whether all cells of each pair are near; ``thumbnails`` and ``contrasts`` of shape (images, cells)."""
    near: Booleans = np.ones(pairs.shape[1], dtype=np.bool_)
    for start in range(0, len(near), _THUMBNAILS_AT_ONCE):
        some = slice(start, start + _THUMBNAILS_AT_ONCE)
        one, other = thumbnails[pairs[:, some]].astype(np.int16)
        allowed = _MAX_LEVELS * _MAX_SHIFT + contrasts[pairs[:, some]].max(0).astype(np.int16)
        near[some] = (_MAX_SHIFT * abs(one - other) <= allowed).all(1)
    return near


def _contrasts(thumbnails: Hashes) -> Hashes:
    """How far the highest of each cell and its neighbors is above the lowest; of the shape of ``thumbnails``."""
    cells = thumbnails.reshape(-1, _CELLS, _CELLS, 3)
    padded = np.pad(cells, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    highest, lowest = cells, cells
    for down, across in np.ndindex(3, 3):
        neighbors = padded[:, down : down + _CELLS, across : across + _CELLS]
        highest, lowest = np.maximum(highest, neighbors), np.minimum(lowest, neighbors)
    return (highest - lowest).reshape(thumbnails.shape)
