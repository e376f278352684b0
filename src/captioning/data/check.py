"""Which rows are fit to train on, found before a run costs anything."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from PIL import UnidentifiedImageError

from captioning.data.pictures import decode, read_bytes
from captioning.data.rows import Problem, Row, Rows

if TYPE_CHECKING:
    from datasets import Dataset


class Checked(NamedTuple):
    """Rows whose pictures can be decoded."""

    rows: Rows
    sizes: list[tuple[int, int]]  # width and height of each row's picture, in pixels
    fingerprint: str  # of ids, captions and encoded pictures


class _Examined(NamedTuple):
    row: Row
    digest: str  # of the encoded picture
    size: tuple[int, int]
    trouble: str  # empty: none


def check_pictures(rows: Rows) -> Checked:
    """The rows whose pictures can be decoded, with the others among their problems.

    Every picture is decoded once: only so is a truncated one found before it costs the run.
    """
    fingerprint = blake2b(digest_size=16)
    good, sizes, problems = [], [], []
    for index, (row, digest, size, trouble) in enumerate(_examined(rows.table)):
        if trouble:
            problems.append(Problem(f"picture can't be read: {trouble}", row["id"]))
        else:
            good.append(index)
            sizes.append(size)
            fingerprint.update(repr((row["id"], row["captions"], digest)).encode())
    return Checked(rows.select(good, problems) if problems else rows, sizes, fingerprint.hexdigest())


def _examined(table: "Dataset", chunk: int = 1024) -> Iterator[_Examined]:
    with ThreadPoolExecutor() as pool:  # PIL decodes without the GIL
        for start in range(0, len(table), chunk):  # a chunk at a time, or every picture's bytes would be in memory
            yield from pool.map(lambda i: _examine(table[i]), range(start, min(start + chunk, len(table))))


def _examine(row: Row) -> _Examined:
    try:
        encoded = read_bytes(row["image"])
        size = decode(encoded).size
    except UnidentifiedImageError:
        return _Examined(row, "", (0, 0), "not a picture" if encoded else "empty file")
    except OSError as error:
        return _Examined(row, "", (0, 0), str(error))
    return _Examined(row, blake2b(encoded, digest_size=16).hexdigest(), size, "")
