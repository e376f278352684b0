"""Text files of any system."""

import json
import re
from pathlib import Path
from typing import TextIO

SURROGATE = re.compile("[\ud800-\udfff]")


def open_text(file: Path) -> TextIO:
    """A text file; bytes that aren't UTF-8 are kept as surrogates, for :func:`is_utf8` to find."""
    return file.open(encoding="utf-8-sig", errors="surrogateescape", newline=None)


def is_utf8(text: str) -> bool:
    """Whether text can be written as UTF-8: not where it has bytes of another encoding, or half of an emoji."""
    return text.isascii() or not SURROGATE.search(text)


def json_object(text: str | bytes) -> tuple[dict[str, object], str]:
    """The object in JSON text, or else an empty one and what is wrong with the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}, "isn't JSON"
    return (value, "") if isinstance(value, dict) else ({}, "isn't a JSON object")
