"""Search with Optuna, in the command line's grammar of Hydra's own plugin, which wants an Optuna of 2022."""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.utils import instantiate
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import Trial, TrialState

from captioning.config.schema import direction
from captioning.errors import UserError, reason
from captioning.files import replacing
from captioning.sweeps.importance import JOURNAL, STUDY_NAME, storage_of
from captioning.sweeps.jobs import INTERRUPTED, NOT_STARTED, Sweep, say

BEST = "optimization_results.yaml"
FOLDER = "folder"  # the attribute of a trial that names the sweep's folder which it runs in
# Samplers whose seed makes a sequence that all trials of a study go through. The others' makes the next choice only.
EXHAUSTIBLE = ("GridSampler", "BruteForceSampler")
OF_THE_WHOLE_STUDY = (*EXHAUSTIBLE, "QMCSampler")


def search(
    sweeper: Any,
    arguments: Sequence[str],
    *,
    n_trials: int = 20,
    n_jobs: int = 1,
    sampler: Any = None,
    storage: str | None = None,
    study_name: str | None = None,
    params: Any = None,
) -> None:
    """Run trials until the study has ``n_trials``, failed ones included; ``n_jobs`` are sampled at once.

    ``sampler`` is a node with ``_target_`` for one of Optuna's samplers, seeded from ``seed`` unless it has a seed;
    ``storage`` a URL for Optuna's, by default a journal in the sweep's folder; ``params`` has overrides from a file,
    over which ``arguments``, of the command line, win.

    Raises:
        UserError: a setting is refused, or nothing is left to try and no trial has a score.
    """
    config = sweeper.config
    for name, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
        if value < 1:
            raise UserError(f"hydra.sweeper.{name} must be at least 1, got {value}")
    texts = [f"{key}={value}" for key, value in (params or {}).items()]
    space, fixed = split_overrides([*texts, *arguments], sweeper.hydra_context.config_loader)
    if not space:
        raise UserError(
            "hydra/sweeper=optuna: no setting varies; give one a range, as in 'model.lr=tag(log,interval(1e-6,1e-3))'"
        )
    if "monitor" in space:
        raise UserError("monitor: what is best can't vary within a search; give it one value")
    Plugins.instance().instantiate_launcher(
        config=config, hydra_context=sweeper.hydra_context, task_function=sweeper.task_function
    )
    sweep = Sweep.current
    if sweep is None:
        raise UserError("hydra/sweeper=optuna: runs with hydra/launcher=local, joblib or slurm")
    OmegaConf.save(config, sweep.folder / "multirun.yaml")  # as Hydra's own sweeper does
    study = _study(sweep, space, storage, study_name)

    def run(batch: list[Trial]) -> None:
        overrides = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in batch]
        for trial, job in zip(batch, sweep.launch(overrides, [trial.number for trial in batch]), strict=True):
            if job.status not in (INTERRUPTED, NOT_STARTED):  # which the same command resumes
                tell(study, trial, job.return_value)

    running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    begun = [trial for trial in running if trial.user_attrs.get(FOLDER) == sweep.folder.name]
    for start in range(0, len(begun), n_jobs):
        if not sweep.stop_signal:
            run([Trial(study, trial._trial_id) for trial in begun[start : start + n_jobs]])
    if (sampler or {}).get("_target_", "").endswith(".GridSampler"):
        n_trials = min(n_trials, math.prod(len(_grid(key, values)) for key, values in space.items()))
    while (left := n_trials - len(study.get_trials(deepcopy=False))) > 0 and not sweep.stop_signal:
        batch = []
        for _ in range(min(n_jobs, left)):
            # A trial's values depend on the seed and the trials before it, not on how often the sweep was started.
            study.sampler = make_sampler(sampler, space, config.seed, number=len(study.get_trials(deepcopy=False)))
            batch.append(study.ask(space))
            batch[-1].set_user_attr(FOLDER, sweep.folder.name)
        run(batch)
    if sweep.stop_signal:
        return
    if study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        best = study.best_trial
        content = {"name": "optuna", "best_params": best.params, "best_value": best.value, "best_trial": best.number}
        with replacing(sweep.folder / BEST) as part:
            OmegaConf.save(OmegaConf.create(content), part)
    elif sweep.jobs:
        say("no trial has a score, so none is best")
    else:
        raise UserError(
            f"{sweep.folder}: no trial of its study has a score, and all {n_trials} were tried; fix what failed, and "
            "raise hydra.sweeper.n_trials or choose another hydra.sweep.dir"
        )


# ------------------------------------------------------------ the search space


def split_overrides(texts: Sequence[str], config_loader: Any = None) -> tuple[dict[str, BaseDistribution], list[str]]:
    """What varies, as Optuna's distributions by key, and the overrides of what doesn't; of a key, the last counts."""
    parsed = OverridesParser.create(config_loader=config_loader).parse_overrides(list(texts))
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in parsed:
        key = override.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if not override.is_sweep_override():
            value = "" if key.startswith("~") and override.value() is None else override.get_value_element_as_str()
            fixed[key] = f"{key}={value}" if value or not key.startswith("~") else key
            continue
        try:
            space[key] = distribution(override)
        except ValueError as error:
            raise UserError(f"{override.input_line}: {reason(error)}") from error
    return space, list(fixed.values())


def distribution(override: Override) -> BaseDistribution:
    """What a value is drawn from: ``choice``, ``range``, ``interval``, ``tag(log, interval)``, ``int(interval)``."""
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        is_log = "log" in value.tags
        start: Any = value.start  # float to Hydra's types, but int after int(…)
        end: Any = value.end
        if isinstance(start, int) and isinstance(end, int):
            return IntDistribution(start, end, log=is_log)
        return FloatDistribution(float(start), float(end), log=is_log)
    if isinstance(value, RangeSweep) and not value.shuffle:
        numbers = list(value.range())
        if not numbers:
            raise ValueError("an empty range")
        low, high = min(numbers), max(numbers)  # as everywhere in Hydra, the end isn't part of a range
        if all(isinstance(number, int) for number in numbers):
            return IntDistribution(low, high, step=abs(int(value.step)))
        return FloatDistribution(float(low), float(high), step=abs(float(value.step)))

    def number_or_text(text: str) -> int | float | str:
        for kind in (int, float):
            with suppress(ValueError):
                if str(kind(text)) == text:
                    return kind(text)
        return text

    # As text, in which anything that Hydra reads can be a choice; numbers are kept as such for Optuna's plots.
    return CategoricalDistribution([number_or_text(text) for text in override.sweep_string_iterator()])


# ------------------------------------------------------------ the study


def _study(sweep: Sweep, space: dict[str, BaseDistribution], storage: str | None, name: str | None) -> optuna.Study:
    """The study, which may be there already; one that varied other settings is refused. Other limits are welcome."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    goal: Literal["minimize", "maximize"] = "minimize" if direction(sweep.config.monitor) == "min" else "maximize"
    try:
        kept = storage_of(sweep.folder, storage)
        study = optuna.create_study(storage=kept, study_name=name or STUDY_NAME, direction=goal, load_if_exists=True)
    except Exception as error:  # whatever a database's driver raises
        raise UserError(f"hydra.sweeper.storage={storage or sweep.folder / JOURNAL}: {reason(error)}") from error
    monitor, before = sweep.config.monitor, study.user_attrs.get("monitor")
    if before not in (None, monitor):
        raise UserError(f"monitor={monitor}: the study that is there went by {before}; take another folder")
    study.set_user_attr("monitor", monitor)
    for trial in study.get_trials(deepcopy=False):
        if trial.distributions and trial.distributions.keys() != space.keys():
            was, now = (", ".join(sorted(names)) for names in (trial.distributions, space))
            raise UserError(
                f"the study that is there varied {was}, and now it is {now}; take another hydra.sweep.dir, or another "
                "hydra.sweeper.study_name"
            )
        for key, now_from in space.items():
            was_from = trial.distributions.get(key)
            if isinstance(was_from, CategoricalDistribution) and was_from != now_from:
                raise UserError(
                    f"{key}: the study that is there chose from {', '.join(map(str, was_from.choices))}, which Optuna "
                    "can't change; take another hydra.sweep.dir, or another hydra.sweeper.study_name"
                )
    return study


def make_sampler(node: Any, space: dict[str, BaseDistribution], seed: int, *, number: int) -> BaseSampler:
    """The sampler for the trial of this number."""
    settings = dict(node or {"_target_": "optuna.samplers.TPESampler"})
    name = settings["_target_"].rpartition(".")[2]
    if settings.get("seed") is None:
        settings["seed"] = seed
    if name not in OF_THE_WHOLE_STUDY:
        settings["seed"] = (settings["seed"] * 1_000_003 + number) % 2**32
    if name == "GridSampler":
        settings["search_space"] = {key: _grid(key, values) for key, values in space.items()}
    try:
        made: BaseSampler = instantiate(settings, _convert_="all")
    except Exception as error:
        raise UserError(f"hydra.sweeper.sampler: {reason(error.__cause__ or error)}") from error
    return made


def _grid(key: str, values: BaseDistribution) -> list[Any]:
    if isinstance(values, CategoricalDistribution):
        return list(values.choices)
    if isinstance(values, IntDistribution) and not values.log:
        return list(range(values.low, values.high + 1, values.step))
    if isinstance(values, FloatDistribution) and values.step:
        count = round((values.high - values.low) / values.step) + 1
        return [values.low + index * values.step for index in range(count)]
    raise UserError(f"{key}: a grid needs single values, as choice(…) and range(…) give them")


def tell(study: optuna.Study, trial: Trial, score: Any) -> None:
    """Tell a trial's number; without one, or with one that isn't finite, it failed."""
    if type(study.sampler).__name__ in EXHAUSTIBLE:  # at the end it would stop a loop that isn't there, and raise
        study.sampler = optuna.samplers.RandomSampler()
    if isinstance(score, (int, float)) and math.isfinite(score):
        study.tell(trial, float(score))
    else:
        study.tell(trial, state=TrialState.FAIL)
