"""Settings composed from the project's conf/, as the command line of train.py gives them, for the other commands."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Quote, QuotedString

from captioning.data.shards import is_file_name
from captioning.errors import UserError
from captioning.runs.run_folder import RunFolder

CONF = Path(__file__).parents[3] / "conf"


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


def with_earlier_overrides(arguments: Sequence[str]) -> list[str]:
    """A command line that says ``resume=RUN``, with all that the run was given before in front of what it is given now.

    So that Hydra knows what may be changed: a callback, say, that isn't in conf/ by default.

    Raises:
        UserError: there is no such folder. Hydra would make it.
    """
    run = next((value for key, _, value in map(_parts, arguments) if key == "resume"), None)
    if run in (None, "", "null", "auto"):
        return list(arguments)
    require_run_folder(run)
    if (given_before := RunFolder(run).overrides) is None:
        return list(arguments)
    given = {key for key, _, _ in map(_parts, arguments)}
    # What is given anew is left out: Hydra takes no group twice. So is all where a further process repeats it all.
    earlier = [override for override in given_before if _parts(override)[0] not in given]
    place = next(number for number, argument in enumerate(arguments) if _parts(argument)[0] == "resume")
    return [*arguments[:place], *earlier, *arguments[place:]]  # after options, which Hydra wants in one place


def require_run_folder(resume: str) -> None:
    """Make sure that there is such a folder.

    Raises:
        UserError: there isn't.
    """
    path = Path(resume)
    if path.is_file():
        run = path.parent.parent if path.parent.name == "checkpoints" else "outputs/DATE/TIME"
        raise UserError(f"resume={resume}: a file; give the run folder, such as {run}")
    if not path.is_dir():
        raise UserError(f"resume={resume}: no such folder; give a run folder, such as outputs/DATE/TIME")


def _parts(argument: str) -> tuple[str, str, str]:
    key, equals, value = argument.partition("=")
    return key, equals, value.strip("'\"")


def quoted(value: str) -> str:
    """A text as the value of an override, in which ``${…}`` is an interpolation."""
    return QuotedString(text=value, quote=Quote.double).with_quotes()


def literal(value: str) -> str:
    """A text as the value of an override, word for word."""
    return quoted(value.replace("${", r"\${"))


def start_of(run: Path) -> str | None:
    """The folder that a run was started in, which its relative paths are relative to."""
    return RunFolder(run).hydra_runtime.get("cwd")


def absolute_paths(start: str | None, data: Mapping[str, Any]) -> dict[str, str]:
    """The files and folders in ``data`` settings, where they were given relative to ``start``."""
    names = ("path", "images", "splits_from") if data.get("source") == "local" else ("splits_from",)
    given = {name: data[name] for name in names if data.get(name)}
    return {name: "::".join(_below(start, part) for part in path.split("::")) for name, path in given.items() if start}


def _below(start: str, path: str) -> str:
    is_relative = is_file_name(path) and not path.startswith(("/", "~", "${"))
    return str(Path(start, path)) if is_relative else path
