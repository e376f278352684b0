"""The shape of the configuration: Hydra checks every name and type in conf/ and on the command line against it.

A section has the keyword arguments of the class that it feeds: a new setting is added in its constructor alone.
"""

import inspect
import os
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, make_dataclass
from functools import cache, partial
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import lightning as L
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import MISSING, OmegaConf

from captioning.errors import UserError, nearest
from captioning.metrics.metric_info import HIGHER_IS_BETTER
from captioning.models.decoding import Decoding
from captioning.training.callbacks.collapse_alarm import CollapseAlarm
from captioning.training.callbacks.gallery import Gallery
from captioning.training.callbacks.last_checkpoint import LastCheckpoint
from captioning.training.callbacks.weight_averaging import ExponentialMovingAverage
from captioning.training.datamodule import CaptionDataModule
from captioning.training.distributed.environment import default_run_dir
from captioning.training.module import CaptionModule

# In a run's name, what was chosen from a group is there already, and where things are or how they run tells nothing.
EXCLUDED_FROM_RUN_NAME = (
    *("model", "data", "experiment", "trainer", "callbacks", "logger", "path", "dir", "checkpoint"),
    *("resume", "images", "splits_from", "devices", "accelerator", "num_workers", "cache", "cache_dir", "mode"),
    *("push", "name", "public"),
)


def schema_of(*targets: type, with_target: bool = False) -> object:
    """A config dataclass instance with a field for each constructor argument of some classes, but for ``**arguments``.

    An argument whose type OmegaConf can't check is checked by name only. ``with_target`` adds ``_target_``, the first
    class, for a node that Hydra instantiates.
    """
    first = targets[0]
    fields: list[tuple[str, object, Any]] = []
    if with_target:
        fields.append(("_target_", str, field(default=f"{first.__module__}.{first.__qualname__}")))
    for target in targets:
        hints = get_type_hints(target.__init__)  # type: ignore[misc]
        for name, parameter in inspect.signature(target).parameters.items():
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                value = MISSING if parameter.default is inspect.Parameter.empty else parameter.default
                hint = _checkable(hints.get(name, Any))
                fields.append((name, hint, field(default_factory=partial(copy, value))))  # a list is no plain default
    return make_dataclass(first.__name__, fields)()


@cache
def _checkable(hint: Any) -> Any:
    """A type as far as OmegaConf can check it; the choices of a ``Literal`` are checked by the class itself."""
    if get_origin(hint) is Literal:
        return str
    if get_origin(hint) is UnionType and any(get_origin(part) is Literal for part in get_args(hint)):
        return str | None
    with suppress(Exception):  # whatever OmegaConf's many type errors are: it can't
        OmegaConf.structured(make_dataclass("_", [("value", hint, field(default=MISSING))]))
        return hint
    return Any


CALLBACKS = {  # the ones that conf/ has, by their keys there
    "checkpoint": ModelCheckpoint,
    "last": LastCheckpoint,
    "gallery": Gallery,
    "collapse_alarm": CollapseAlarm,
    "early_stopping": EarlyStopping,
    "ema": ExponentialMovingAverage,
}


@dataclass
class Hub:
    """Whether and where a training uploads its model when it has ended, as ``captioning push`` does."""

    push: bool = False
    name: str | None = None  # USER/NAME
    public: bool = False  # whether everybody may see a repository that is new


@dataclass
class Config:
    """Everything that ``python train.py`` can be told; conf/config.yaml says what each is for."""

    model: Any = field(default_factory=lambda: schema_of(CaptionModule, Decoding))
    data: Any = field(default_factory=lambda: schema_of(CaptionDataModule))
    trainer: Any = field(default_factory=lambda: schema_of(L.Trainer))
    callbacks: dict[str, Any] = field(
        default_factory=lambda: {
            name: schema_of(CALLBACKS[name], with_target=True)
            for name in ("checkpoint", "last", "gallery", "collapse_alarm")
        }
    )
    logger: dict[str, Any] = field(default_factory=dict)
    hub: Any = field(default_factory=Hub)
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
    """``"min"`` or ``"max"``: which way of a validation metric such as ``val/wer`` is better."""
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


def resolve(cfg: Any) -> Config:
    """A configuration as plain Python, checked against the schema: ``+`` adds keys, and a saved one may be old."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    nodes = {name: schema_of(cls, with_target=True) for name, cls in CALLBACKS.items() if plain["callbacks"].get(name)}
    checked = OmegaConf.merge(OmegaConf.structured(Config(callbacks=nodes)), plain)
    return Config(**OmegaConf.to_container(checked))  # type: ignore[arg-type]


ConfigStore.instance().store(name="schema", node=Config)
for name in ("early_stopping", "ema"):
    node = {name: schema_of(CALLBACKS[name], with_target=True)}
    ConfigStore.instance().store(group="callbacks", name=f"{name.replace('_', '-')}-schema", node=node)
for resolver in (direction, run_name, run_tags, run_group):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
OmegaConf.register_new_resolver("run_dir", cache(default_run_dir), replace=True)  # a clock answers otherwise next time
