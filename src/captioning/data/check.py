"""Which rows are fit to train on, found before a run costs anything."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import TYPE_CHECKING

from PIL import UnidentifiedImageError

from captioning.data.pictures import decode, read_bytes
from captioning.data.rows import Problem, Row, Rows

if TYPE_CHECKING:
    from datasets import Dataset


def check_pictures(rows: Rows) -> tuple[Rows, str]:
    """The rows whose pictures can be decoded, and a fingerprint of their ids, captions and encoded pictures.

    Every picture is decoded once: only so is a truncated one found before it costs the run.
    """
    fingerprint = blake2b(digest_size=16)
    good, problems = [], []
    for index, (row, digest, trouble) in enumerate(_examined(rows.table)):
        if trouble:
            problems.append(Problem(f"picture can't be read: {trouble}", row["id"]))
        else:
            good.append(index)
            fingerprint.update(repr((row["id"], row["captions"], digest)).encode())
    return (rows.select(good, problems) if problems else rows), fingerprint.hexdigest()


def _examined(table: "Dataset", chunk: int = 1024) -> Iterator[tuple[Row, str, str]]:
    """Each row with the digest of its encoded picture and what is wrong with it (empty: nothing)."""
    with ThreadPoolExecutor() as pool:  # PIL decodes without the GIL
        for start in range(0, len(table), chunk):  # a chunk at a time, or every picture's bytes would be in memory
            yield from pool.map(lambda i: _examine(table[i]), range(start, min(start + chunk, len(table))))


def _examine(row: Row) -> tuple[Row, str, str]:
    try:
        encoded = read_bytes(row["image"])
        decode(encoded)
    except UnidentifiedImageError:
        return row, "", "not a picture" if encoded else "empty file"
    except OSError as error:
        return row, "", str(error)
    return row, blake2b(encoded, digest_size=16).hexdigest(), ""
