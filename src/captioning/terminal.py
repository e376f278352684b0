"""Text that comes from data, in the terminal."""

import re
import sys
from io import TextIOWrapper

from rich.console import Console

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
UNLIMITED = 1_000_000


def plain_console() -> Console:
    """A console that prints text as it is: a caption's "[red]" and ":cat:" are its own words.

    Where standard output is no terminal, no line is cut or wrapped: what is printed can be piped to grep.
    """
    tolerate_any_terminal()
    width = None if sys.stdout.isatty() else UNLIMITED
    return Console(markup=False, emoji=False, highlight=False, width=width)


def tolerate_any_terminal() -> None:
    """Let a terminal that lacks a letter show a question mark, rather than end the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def quiet_transformers() -> None:
    """Of what transformers logs, keep the errors."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def plain(text: str) -> str:
    """``text`` with a space for what would command the terminal."""
    return CONTROL.sub(" ", text)
