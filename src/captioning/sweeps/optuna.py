"""Search with Optuna: ``python train.py -m hydra/sweeper=optuna 'model.lr=tag(log, interval(1e-6, 1e-3))'``.

Hydra's own plugin wants an Optuna below 3, of 2022. The command line's grammar is the same.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.utils import instantiate
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from captioning.config.schema import direction
from captioning.errors import UserError, reason
from captioning.files import replacing
from captioning.sweeps.folder import FINISHED, INTERRUPTED, NOT_STARTED, RUNNING
from captioning.sweeps.jobs import is_stopped, status_of_job, sweep_dir

_log = logging.getLogger(__name__)
JOURNAL, BEST = "study.journal", "optimization_results.yaml"
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
    """Run trials until the study has ``n_trials``.

    Args:
        sweeper: Hydra's, set up.
        arguments: the overrides of the command line, those that vary and those that don't.
        n_trials: trials that the study shall have in the end, failed ones counted.
        n_jobs: trials at once, which the launcher runs beside each other if it can; they know nothing of each other.
        sampler: a node with ``_target_`` for one of Optuna's samplers; seeded from ``seed`` unless it has one.
        storage: an URL for Optuna's storage; by default a journal in the sweep's folder.
        study_name: the study's name in the storage.
        params: overrides as ``arguments``, from a file; the command line's stand above them.

    Raises:
        UserError: a setting can't be what it is, or there is nothing left to try and no trial has a number.
    """
    config, hydra = sweeper.config, sweeper.config.hydra
    for name, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
        if value < 1:
            raise UserError(f"hydra.sweeper.{name} must be at least 1, got {value}")
    folder = sweep_dir(hydra)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")  # as Hydra's own sweeper does
    texts = [f"{key}={value}" for key, value in (params or {}).items()]
    space, fixed = split_overrides([*texts, *arguments], sweeper.hydra_context.config_loader)
    if not space:
        raise UserError(
            "hydra/sweeper=optuna: no setting varies; give one a range, as in 'model.lr=tag(log,interval(1e-6,1e-3))'"
        )
    _refuse_several_goals(space)
    study = _study(config, folder, storage, study_name)
    _require_same_space(study, space, fixed)
    batch = None
    for batch in _batches(study, space, n_trials, n_jobs, folder, sampler, config.seed):
        _run(sweeper, study, batch, fixed)
        if is_stopped(hydra):
            return
    if batch is None and not _trials(study, TrialState.COMPLETE):
        raise UserError(
            f"{folder}: no trial of its study has a number, and it has as many as it shall; mend what "
            "failed, and raise hydra.sweeper.n_trials or take another hydra.sweep.dir"
        )
    _write_best(study, folder)


# ------------------------------------------------------------ the search space


def split_overrides(texts: Sequence[str], config_loader: Any = None) -> tuple[dict[str, BaseDistribution], list[str]]:
    """What varies, as Optuna's distributions by key, and the overrides of what doesn't; of a key, the last counts.

    Raises:
        UserError: a range that Optuna can't draw from.
    """
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
    """What a value is drawn from: ``choice``, ``range``, ``interval``, ``tag(log, interval)``, ``int(interval)``.

    Raises:
        ValueError: it is empty, or can't have a logarithm.
    """
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
    # As text, in which anything that Hydra reads can be a choice; numbers are kept as such for Optuna's plots.
    return CategoricalDistribution([_number_or_text(text) for text in override.sweep_string_iterator()])


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if str(number) == text:
            return number
    return text


def _refuse_several_goals(space: dict[str, BaseDistribution]) -> None:
    if "monitor" in space:
        raise UserError("monitor: what is best can't vary within a search; give it one value")


# ------------------------------------------------------------ the study


def _study(config: Any, folder: Path, storage: str | None, name: str | None) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    goal: Literal["minimize", "maximize"] = "minimize" if direction(config.monitor) == "min" else "maximize"
    try:
        study = optuna.create_study(
            storage=_storage(folder, storage), study_name=name or "captioning", direction=goal, load_if_exists=True
        )
    except Exception as error:  # whatever a database's driver raises
        raise UserError(f"hydra.sweeper.storage={storage or folder / JOURNAL}: {reason(error)}") from error
    monitor = study.user_attrs.get("monitor", config.monitor)
    if monitor != config.monitor:
        raise UserError(f"monitor={config.monitor}: the study that is there went by {monitor}; take another folder")
    study.set_user_attr("monitor", config.monitor)
    return study


def _storage(folder: Path, url: str | None) -> str | BaseStorage:
    if url:
        return url
    path = str(folder / JOURNAL)
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def _require_same_space(study: optuna.Study, space: dict[str, BaseDistribution], fixed: Sequence[str]) -> None:
    """Refuse to go on with a study that varied other settings. Other limits are welcome."""
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


def _batches(
    study: optuna.Study,
    space: dict[str, BaseDistribution],
    n_trials: int,
    n_jobs: int,
    folder: Path,
    sampler: Any,
    seed: int,
) -> Iterator[list[Trial]]:
    """Trials to run together: first those that were begun and not told, then new ones."""
    begun = [trial for trial in _trials(study, TrialState.RUNNING) if trial.user_attrs.get(FOLDER) == folder.name]
    waiting = [Trial(study, trial._trial_id) for trial in begun]
    while waiting:
        yield waiting[:n_jobs]
        waiting = waiting[n_jobs:]
    if (sampler or {}).get("_target_", "").endswith(".GridSampler"):
        n_trials = min(n_trials, math.prod(len(_grid(key, values)) for key, values in space.items()))
    while (left := n_trials - len(study.get_trials(deepcopy=False))) > 0:
        yield [_ask(study, space, folder, sampler, seed) for _ in range(min(n_jobs, left))]


def _trials(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=states)


def _ask(study: optuna.Study, space: dict[str, BaseDistribution], folder: Path, sampler: Any, seed: int) -> Trial:
    """A new trial. Its values depend on the seed and the trials before it, not on how often the sweep was started."""
    study.sampler = make_sampler(sampler, space, seed, number=len(study.get_trials(deepcopy=False)))
    trial = study.ask(space)
    trial.set_user_attr(FOLDER, folder.name)
    return trial


def make_sampler(
    node: Any, space: dict[str, BaseDistribution], seed: int, *, number: int
) -> optuna.samplers.BaseSampler:
    """The sampler for the trial of this number.

    Raises:
        UserError: Optuna refuses its settings.
    """
    settings = dict(node or {"_target_": "optuna.samplers.TPESampler"})
    name = settings["_target_"].rpartition(".")[2]
    if settings.get("seed") is None:
        settings["seed"] = seed
    if name not in OF_THE_WHOLE_STUDY:
        settings["seed"] = (settings["seed"] * 1_000_003 + number) % 2**32
    if name == "GridSampler":
        settings["search_space"] = {key: _grid(key, values) for key, values in space.items()}
    try:
        made: optuna.samplers.BaseSampler = instantiate(settings, _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        raise UserError(f"hydra.sweeper.sampler: {reason(cause)}") from error
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


# ------------------------------------------------------------ the trials


def _run(sweeper: Any, study: optuna.Study, batch: list[Trial], fixed: Sequence[str]) -> None:
    """Train a batch, and tell the study each trial's number; one that was interrupted is left, to be gone on with."""
    overrides = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in batch]
    sweeper.validate_batch_is_legal(overrides)
    for start, end in _runs_of_numbers([trial.number for trial in batch]):
        returned = sweeper.launcher.launch(overrides[start:end], initial_job_idx=batch[start].number)
        for trial, result in zip(batch[start:end], returned, strict=True):
            status = status_of_job(sweeper.config.hydra, trial.number)
            if status in (INTERRUPTED, NOT_STARTED, RUNNING, None):
                continue
            tell(study, trial, result.return_value if status == FINISHED else None)
        if is_stopped(sweeper.config.hydra):
            return


def tell(study: optuna.Study, trial: Trial, score: Any) -> None:
    """Tell a trial's number; without one, or with one that isn't finite, it failed."""
    if type(study.sampler).__name__ in EXHAUSTIBLE:  # at the end it would stop a loop that isn't there, and raise
        study.sampler = optuna.samplers.RandomSampler()
    if isinstance(score, (int, float)) and math.isfinite(score):
        study.tell(trial, float(score))
    else:
        study.tell(trial, state=TrialState.FAIL)


def _runs_of_numbers(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Slices in which numbers follow each other, as a launcher numbers its jobs: [3, 4, 7] gives (0, 2) and (2, 3)."""
    start = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            yield start, place
            start = place


def _write_best(study: optuna.Study, folder: Path) -> None:
    """Say which trial is best, and leave it in a file, as Hydra's plugin does."""
    if not _trials(study, TrialState.COMPLETE):
        _log.warning("no trial has a number, so none is best")
        return
    best = study.best_trial
    values = " ".join(f"{key}={value}" for key, value in best.params.items())
    _log.info(f"best: trial {best.number} with {study.user_attrs['monitor']} {best.value:.4f} ({values})")
    content = {"name": "optuna", "best_params": best.params, "best_value": best.value, "best_trial": best.number}
    with replacing(folder / BEST) as part:
        OmegaConf.save(OmegaConf.create(content), part)
