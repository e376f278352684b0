"""Settings composed as ``python train.py`` composes them: for the other commands, and for a run that is resumed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Quote, QuotedString

from captioning.data.shards import is_file_name
from captioning.errors import UserError
from captioning.runs.run_folder import RunFolder
from captioning.training.distributed.environment import default_run_dir, is_restart

CONF = Path(__file__).parents[3] / "conf"
AUTO = "auto"
GROUPS = ("model", "data", "trainer", "callbacks", "logger", "experiment")  # of conf/
# Of the command line of a run that is resumed: its folder has these, and Hydra writes nothing into it.
RESUMED = ("hydra.output_subdir=null", "hydra/job_logging=none")


def compose_settings(overrides: Sequence[str], *, command: str, folder: Path, defaults: Sequence[str] = ()) -> Any:
    """What ``python train.py`` would compose, without a tracker, and with ``folder`` as its run folder.

    ``overrides`` win over ``defaults``; ``command`` is for the message.

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


def resume_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line with ``resume=RUN`` as Hydra takes it: on the config that the run has saved.

    Values that are given now win over those saved; the ones that the run was given already are left out, so the command
    that began a run may be repeated. With ``resume=auto``, and where SLURM or torchrun start a run again, that holds if
    there is a checkpoint in the folder, and else nothing changes.
    """
    given = dict(map(_key_and_value, arguments))
    resume = given.get("resume") or (AUTO if is_restart() else "null")
    if resume == "null" or not {"-m", "--multirun"}.isdisjoint(arguments):
        return list(arguments)
    run_dir = given.get("hydra.run.dir")
    if resume == AUTO:
        folder = Path(run_dir or default_run_dir())
        if not (folder / ".hydra" / "config.yaml").is_file() or not any(folder.glob("checkpoints/*.ckpt")):
            return list(arguments)
    else:
        folder = Path(resume)
        if folder.is_file():
            run = folder.parent.parent if folder.parent.name == "checkpoints" else "outputs/DATE/TIME"
            raise UserError(f"resume={resume}: a file; give the run folder, such as {run}")
        if not folder.is_dir():
            raise UserError(f"resume={resume}: no such folder; give a run folder, such as outputs/DATE/TIME")
        if not (folder / ".hydra" / "config.yaml").is_file():
            raise UserError(f"resume={resume}: no run was begun there (it has no .hydra/config.yaml)")
        if run_dir and folder.resolve() != Path(run_dir).resolve():
            raise UserError(f"resume={resume} and hydra.run.dir={run_dir}: a run is resumed in its own folder")
    folder = folder.absolute()
    resumed = [
        f"hydra.run.dir={literal(str(folder))}",
        *RESUMED,
        f"resume={resume if resume == AUTO else literal(resume)}",
    ]
    earlier = set(RunFolder(folder).overrides or ())
    kept: list[str] = []
    for argument in arguments if "resume" in given else [*arguments, "resume"]:
        key, value = _key_and_value(argument)
        if key == "resume":
            kept += resumed  # in this place, because Hydra takes no options between overrides
        elif value != given[key]:  # which is given again later
            continue
        elif key in GROUPS and argument not in earlier:
            raise UserError(
                f"{argument}: a run that is resumed keeps its {key}; give single settings, as in model.lr=1e-5"
            )
        elif key == "hydra.run.dir" or argument in earlier:
            continue
        elif value.startswith("{"):  # Hydra would merge it with what is saved
            kept += [f"{key}=null", f"++{key}={value}"]
        else:
            kept.append(argument)
    return ["--config-path", str(folder / ".hydra"), "--config-name", "config", *kept]


def merge_overrides(earlier: Iterable[str], given: Iterable[str]) -> list[str]:
    """All that a run was ever given: of a key, what was given last."""
    by_key = {_key_and_value(override)[0]: override for override in [*earlier, *given]}
    return [override for key, override in by_key.items() if key != "resume" and not key.startswith("hydra")]


def _key_and_value(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value.strip("'\"")


def quoted(value: str) -> str:
    """A text as the value of an override, in which ``${…}`` is an interpolation."""
    return QuotedString(text=value, quote=Quote.double).with_quotes()


def literal(value: str) -> str:
    """A text as the value of an override, word for word."""
    return quoted(value.replace("${", r"\${"))


def absolute_paths(data: Mapping[str, Any]) -> dict[str, str]:
    """The files and folders in ``data`` settings, relative to nothing: a run may be resumed from elsewhere."""
    names = ("path", "images", "splits_from") if data.get("source") == "local" else ("splits_from",)
    given = {name: str(data[name]) for name in names if data.get(name)}
    return {
        name: "::".join(
            str(Path(part).absolute()) if is_file_name(part) and not part.startswith(("~", "${")) else part
            for part in paths.split("::")
        )
        for name, paths in given.items()
    }
