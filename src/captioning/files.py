"""Files that are whole or absent."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what shall stand at ``path`` once it is whole."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8; another process sees the whole file or none."""
    with replacing(path) as part:
        # Half of a surrogate pair can stand in JSON, but not in UTF-8.
        part.write_text(text, encoding="utf-8", errors="replace")


def write_json(path: Path, content: object) -> None:
    """Write indented JSON; another process sees the whole file or none."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, lines: Iterable[Mapping[str, object]]) -> None:
    """Write a JSON object a line; another process sees the whole file or none."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def write_at(descriptor: int, content: bytes, position: int) -> None:
    """Write all of it at a position, from any thread; a mapping would end the process where the disk is full."""
    left = memoryview(content)
    while left:
        written = os.pwrite(descriptor, left, position)
        left, position = left[written:], position + written
