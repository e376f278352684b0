"""A user's mistake answered in one line: the key, the value and what would do. No traceback unless asked for."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from captioning.config.compose import resume_arguments
from captioning.errors import UserError, nearest, reason
from captioning.training.distributed.environment import prints_errors, process_name

ENVIRONMENT_VARIABLE = "HYDRA_FULL_ERROR"  # the one that Hydra's users know
TRACEBACK_WANTED = os.environ.get(ENVIRONMENT_VARIABLE, "0") not in ("", "0")
# Settings of the release before: what they are called now, or nothing for those that were removed.
RENAMED = {
    "data.augment_colour": "data.augment_color_jitter",
    "callbacks.gallery.pictures": "callbacks.gallery.images",
    "data.creatures": "data.limit",
    **dict.fromkeys(("data.max_captions", "data.augment_blur", "data.stream_buffer"), ""),
    **dict.fromkeys(("hub.every_n_validations", "hub.license", "hub.data_license", "hub.samples"), ""),
    **dict.fromkeys(("callbacks.last.dirpath", "callbacks.gallery.dirpath"), ""),
    **{
        f"callbacks.collapse_alarm.{name}": ""
        for name in ("top_caption", "repetition", "empty_captions", "min_pictures")
    },
}
MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Answer a mistake made within in one line on standard error, and exit with status 1.

    A defect passes through with its traceback; with ``HYDRA_FULL_ERROR=1`` everything does.
    """
    if TRACEBACK_WANTED:
        yield
        return
    os.environ.pop(ENVIRONMENT_VARIABLE, None)  # set by run_main; not meant for the processes that a run starts
    try:
        yield
    except BrokenPipeError:  # whoever read our output wants no more of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at its end
        sys.exit(1)
    except MISTAKES as error:
        line = explain(error)
        if prints_errors():
            name = process_name()
            print(f"error{f' ({name})' if name else ''}: {line}", file=sys.stderr)
        sys.exit(1)


def run_main(main: Callable[[], object]) -> None:
    """Call a ``hydra.main`` function, with its mistakes of composition answered in one line too."""
    with friendly_errors():
        if not TRACEBACK_WANTED:
            os.environ[ENVIRONMENT_VARIABLE] = "1"  # Hydra then raises what it would print over several lines
        sys.argv[1:] = resume_arguments(sys.argv[1:])
        try:
            main()
        except (BrokenPipeError, MissingConfigException):  # OSErrors too, that say enough
            raise
        except OSError as error:  # of Hydra, which makes the folder
            raise UserError(f"{reason(error, name_file=True)}; the run folder is set with hydra.run.dir=DIR") from error


def explain(error: Exception) -> str:
    """The line for an error."""
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, UserError):
        return str(error.__cause__)
    if isinstance(error, UserError):
        message = str(error)
        # From a loading process it comes with its traceback as text, and itself in the last line.
        return message.strip().splitlines()[-1].partition(": ")[2] if message.startswith("Caught ") else message
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        # Of one in a list Hydra doesn't say which there are.
        there_are = "" if error.options is None else nearest(choice, list(error.options))
        return f"{group}={choice}: no such choice{there_are}"
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if ambiguous := re.search(r"Ambiguous value for argument '(.*)'", str(error)):
        return _unreadable(ambiguous.group(1))
    # A mistake on the command line is the cause of Hydra's error, one in a file its context.
    causes = [e for e in (error.__cause__, error.__context__, error) if isinstance(e, OmegaConfBaseException)]
    if causes:
        return _explain_value(max(causes, key=lambda e: bool(e.full_key)), composition=error)
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}"
    return " ".join(str(error).split())


def _unreadable(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override}: a setting is given as KEY=VALUE"
    quoted = value.strip("'\"").replace('"', r"\"")
    return f"""{override}: Hydra can't read this value; a text with special characters goes in two kinds of quotes: \
'{key}="{quoted}"'"""


def _explain_value(cause: OmegaConfBaseException, *, composition: Exception) -> str:
    key = cause.full_key or ""
    message = str(cause).splitlines()[0]
    if raised := re.search(r"^UserError raised while resolving interpolation: (.*)", message):
        return raised.group(1)
    # Hydra names the override or the file in its own message, and OmegaConf the key in its cause.
    override = re.search(r"(?:override |use \+?)(\S+=.*)", str(composition))
    file = re.search(r"In '([^']+)'", str(composition))
    setting = override.group(1) if override else f"{key} (in conf/{file.group(1)}.yaml)" if file else key
    if key in RENAMED:
        return f"{setting}: is called {RENAMED[key]} now" if RENAMED[key] else f"{setting}: is no setting any more"
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        parent, _, name = key.rpartition(".")
        siblings = [str(sibling) for sibling in cause.parent_node] if isinstance(cause.parent_node, DictConfig) else []
        there_are = nearest(name, siblings) if siblings else ""
        return f"{setting}: no such setting{there_are.replace('mean ', f'mean {parent}.' if parent else 'mean ')}"
    if isinstance(cause, MissingMandatoryValue):
        return f"{key} is missing: set it with {key}=…"
    if wanted := re.search(r"could not be converted to (\w+)", message):
        return f"{setting}: {_TYPE_NAMES.get(wanted.group(1), wanted.group(1))} is needed"
    return f"{setting}: {message}"


_TYPE_NAMES = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false", "String": "text"}
