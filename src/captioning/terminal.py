"""What goes to the terminal: messages, and text that comes from data."""

import logging
import os
import re
import sys
import warnings
from io import TextIOWrapper

from rich.console import Console

UNLIMITED = 1_000_000  # columns
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
# Warnings of libraries about what is meant to be so.
EXPECTED = (
    ".*`IterableDataset` has `__len__` defined.*",  # an epoch of a stream is as long as data.stream_epoch says
    ".*does not have many workers.*",  # data.num_workers is chosen, or set by the user
    ".*Using `DistributedSampler` with the dataloaders.*",  # the own sampler counts each image once
    r".*module\(s\) in eval mode at the start of training.*",  # a vision tower that is frozen
    ".*your dataloader is not resumable.*",  # CaptionDataModule resumes it
    ".*exists and is not empty.*",  # the run folder holds what was written when the run began
    ".*number of training batches .* is smaller than the logging interval.*",  # every optimizer step is kept
    ".*LeafSpec.*is deprecated.*",  # Lightning's own use of torch
    ".*when logging on epoch level in distributed setting.*",  # every process has the numbers of all captions
)


def setup_logging(*, is_rank_zero: bool = True) -> None:
    """Send our messages to standard error, and of the libraries' only the warnings that can be acted on."""
    tolerate_any_terminal()
    log = logging.getLogger("captioning")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO if is_rank_zero else logging.ERROR)
        log.propagate = False  # Hydra's handler would repeat it
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    quiet_transformers()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it can't read is reported by our reader
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # it isn't imported yet
    warnings.filterwarnings("ignore", module=r"PIL\.")  # without the image's name; the check has one
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message)


def quiet_transformers() -> None:
    """Keep the errors of transformers alone."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def plain_console() -> Console:
    """A console that prints text as it is; where standard output is no terminal, no line is cut or wrapped."""
    tolerate_any_terminal()
    width = None if sys.stdout.isatty() else UNLIMITED
    return Console(markup=False, emoji=False, highlight=False, width=width)


def tolerate_any_terminal() -> None:
    """Let a terminal that lacks a letter show a question mark, rather than end the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def plain(text: str) -> str:
    """``text`` with a space for what would command the terminal."""
    return CONTROL.sub(" ", text)
