"""The shape of the configuration: Hydra checks every name and type in conf/ and on the command line against it.

A section that feeds one of our classes, or Lightning's, has exactly that class's keyword arguments. So a new setting is
added in one place, the constructor, and conf/ holds values only.
"""

import inspect
import os
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Any, Literal, get_origin, get_type_hints

import lightning as L
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import MISSING, OmegaConf

from captioning.errors import UserError, nearest
from captioning.metrics import HIGHER_IS_BETTER
from captioning.training.callbacks.collapse_alarm import CollapseAlarm
from captioning.training.callbacks.gallery import Gallery
from captioning.training.callbacks.last_checkpoint import LastCheckpoint
from captioning.training.callbacks.push_to_hub import PushToHub
from captioning.training.callbacks.weight_averaging import ExponentialMovingAverage
from captioning.training.datamodule import CaptionDataModule
from captioning.training.distributed.environment import default_run_dir
from captioning.training.module import CaptionModule

# In a run's name, what was chosen from a group is there already, and where things are or how they run tells nothing.
EXCLUDED_FROM_RUN_NAME = (
    *("model", "data", "experiment", "trainer", "callbacks", "logger", "path", "dir", "checkpoint"),
    *("resume", "images", "splits_from", "devices", "accelerator", "num_workers", "cache", "cache_dir", "mode"),
    *("push", "name", "every_n_validations", "public", "license", "data_license", "samples"),
)


def schema_of(target: type, *, with_target: bool = False) -> Any:
    """A config dataclass instance with a field for each constructor argument of ``target``.

    Args:
        target: the class. An argument whose type OmegaConf can't check is checked by name only.
        with_target: add ``_target_``, for a node that Hydra instantiates.
    """
    hints = get_type_hints(target.__init__)  # type: ignore[misc]
    fields: list[tuple[str, Any, Any]] = []
    if with_target:
        fields.append(("_target_", str, f"{target.__module__}.{target.__qualname__}"))
    for name, parameter in inspect.signature(target).parameters.items():
        default = MISSING if parameter.default is parameter.empty else parameter.default
        hint = hints.get(name, Any)
        hint = str if get_origin(hint) is Literal else hint  # its choices are checked by the class
        fields.append((name, hint if _is_supported(hint) else Any, default))
    return make_dataclass(target.__name__, [(name, hint, _default(value)) for name, hint, value in fields])()


def _default(value: Any) -> Any:
    return field(default_factory=lambda: value)  # a factory, because a plain default can't be a list


def _is_supported(hint: Any) -> bool:
    """Whether OmegaConf can check values of this type."""
    try:
        OmegaConf.structured(make_dataclass("_", [("value", hint, field(default=MISSING))]))
    except Exception:  # whatever OmegaConf's many type errors are: the answer is no
        return False
    return True


@dataclass
class Config:
    """Everything that ``python train.py`` can be told; conf/config.yaml says what each is for."""

    model: Any = field(default_factory=lambda: schema_of(CaptionModule))
    data: Any = field(default_factory=lambda: schema_of(CaptionDataModule))
    trainer: Any = field(default_factory=lambda: schema_of(L.Trainer))
    callbacks: dict[str, Any] = field(
        default_factory=lambda: {
            "checkpoint": schema_of(ModelCheckpoint, with_target=True),
            "last": schema_of(LastCheckpoint, with_target=True),
            "gallery": schema_of(Gallery, with_target=True),
            "collapse_alarm": schema_of(CollapseAlarm, with_target=True),
        }
    )
    logger: dict[str, Any] = field(default_factory=dict)
    hub: Any = field(default_factory=lambda: schema_of(PushToHub))
    output_dir: str = MISSING
    resume: str | None = None
    seed: int = 42
    monitor: str = "val/wer"
    val_every_n_steps: int | None = None
    tf32: bool = False
    find_batch_size: bool = False
    find_lr: bool = False
    collective_timeout_seconds: float = 1800.0


def direction(monitor: str) -> str:
    """``"min"`` or ``"max"``: which way of a validation metric such as ``val/wer`` is better.

    Raises:
        UserError: validation has no such metric, or neither way of it is better.
    """
    names = [f"val/{name}" for name in HIGHER_IS_BETTER]
    if monitor not in names:
        raise UserError(f"monitor={monitor}: validation has no such metric{nearest(monitor, names)}")
    higher = HIGHER_IS_BETTER[monitor.removeprefix("val/")]
    if higher is None:
        raise UserError(f"monitor={monitor}: neither more nor less of it is better; take val/wer or val/cider")
    return "max" if higher else "min"


def run_name() -> str | None:
    """What tells this run from others: model, data, experiment, and the values given on the command line."""
    if not HydraConfig.initialized():
        return None
    given = (override.lstrip("+").partition("=") for override in HydraConfig.get().overrides.task)
    named = [(key.rpartition(".")[2], value) for key, _, value in given if not key.startswith("~")]
    values = [f"{key}={value}" for key, value in named if key not in EXCLUDED_FROM_RUN_NAME]
    while len(name := " ".join([*run_tags(), *values])) > 128 and values:  # the most that wandb takes
        values.pop(0)
    return name[:128]


def run_tags() -> list[str]:
    """The chosen model, data and experiment."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return [choices[group][:64] for group in ("model", "data", "experiment") if choices.get(group)]


def run_group() -> str | None:
    """The sweep that this run is a job of, or else its experiment."""
    experiment = HydraConfig.get().runtime.choices.get("experiment") if HydraConfig.initialized() else None
    return os.environ.get("WANDB_RUN_GROUP") or experiment


@cache  # a clock would answer otherwise the next time
def run_dir(resume: str | None) -> str:
    """The folder of this run: the one to go on in, or else one by the time of its start."""
    return default_run_dir() if resume in (None, "auto") else resume


ConfigStore.instance().store(name="schema", node=Config)
ConfigStore.instance().store(
    group="callbacks",
    name="early-stopping-schema",
    node={"early_stopping": schema_of(EarlyStopping, with_target=True)},
)
ConfigStore.instance().store(
    group="callbacks",
    name="ema-schema",
    node={"ema": schema_of(ExponentialMovingAverage, with_target=True)},
)
for resolver in (direction, run_name, run_tags, run_group, run_dir):  # a launcher pickles them, by these names
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
