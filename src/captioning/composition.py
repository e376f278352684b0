"""Settings composed from the project's conf/, as the command line of train.py gives them, for the other commands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Quote, QuotedString

from captioning.errors import UserError

CONF = Path(__file__).parents[2] / "conf"


def compose_settings(overrides: Sequence[str], *, command: str, folder: Path, defaults: Sequence[str] = ()) -> Any:
    """What ``python train.py`` would compose, without a tracker, and with ``folder`` for its run folder.

    Args:
        overrides: what the user gave.
        command: which command composes, for the message.
        folder: where its results go.
        defaults: overrides that the user's stand above.

    Raises:
        UserError: the user gave what the command itself decides, or there is no conf/.
    """
    for override in overrides:
        if override.lstrip("+").startswith(("hydra.", "output_dir=")):
            raise UserError(f"{override}: where results go is given by --output-dir DIR")
    if not CONF.is_dir():
        raise UserError(
            f"{CONF}: no such folder; `captioning {command}` takes its settings from the project's conf/, so install "
            "it from a checkout with `pip install -e .`"
        )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"output_dir={literal(str(folder))}", "logger=none", *defaults, *overrides])


def quoted(value: str) -> str:
    """A text as the value of an override, in which ``${…}`` is an interpolation."""
    return QuotedString(text=value, quote=Quote.double).with_quotes()


def literal(value: str) -> str:
    """A text as the value of an override, word for word."""
    return quoted(value.replace("${", r"\${"))
