"""The project's sweeper and launchers, where Hydra looks for them; it imports this at every start."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from captioning.errors import UserError


def _import(name: str, choice: str) -> Any:
    try:
        return import_module(f"captioning.sweeps.{name}")
    except ModuleNotFoundError as error:
        extra = choice.rpartition("=")[2]
        raise UserError(f"{choice}: no {error.name} here; pip install -e '.[{extra}]'") from error


class OptunaSweeper(Sweeper):
    """``hydra/sweeper=optuna``; its settings are the arguments of :func:`captioning.sweeps.optuna.search`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def sweep(self, arguments: list[str]) -> None:
        _import("optuna", "hydra/sweeper=optuna").search(self, arguments, **self.settings)


class LocalLauncher(Launcher):
    """``hydra/launcher=local`` and ``joblib``: jobs on this machine."""

    def __init__(self, n_jobs: int, **_: object) -> None:  # more settings where hydra-joblib-launcher is installed too
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from captioning.sweeps.jobs import Sweep, run_locally

        self.sweep = Sweep(config, hydra_context.config_loader, partial(run_locally, n_jobs=self.n_jobs))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
        return self.sweep.launch(job_overrides, range(initial_job_idx, initial_job_idx + len(job_overrides)))


class SlurmLauncher(LocalLauncher):
    """``hydra/launcher=slurm``: a job of SLURM for each job of the sweep."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from captioning.sweeps.jobs import Sweep

        run_jobs = partial(_import("submitit", "hydra/launcher=slurm").run_on_slurm, settings=self.settings)
        self.sweep = Sweep(config, hydra_context.config_loader, run_jobs)
