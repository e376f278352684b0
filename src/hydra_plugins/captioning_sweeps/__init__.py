"""The project's sweeper and launchers, where Hydra looks for them; it imports this at every start."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from captioning.errors import UserError


class OptunaSweeper(Sweeper):
    """``hydra/sweeper=optuna``; its settings are the arguments of :func:`captioning.sweeps.optuna.search`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def sweep(self, arguments: list[str]) -> None:
        try:
            from captioning.sweeps.optuna import search
        except ModuleNotFoundError as error:
            raise UserError(f"hydra/sweeper=optuna: no {error.name} here; pip install -e '.[optuna]'") from error
        search(self, arguments, **self.settings)


class LocalLauncher(Launcher):
    """``hydra/launcher=local`` and ``joblib``: jobs on this machine."""

    def __init__(self, n_jobs: int, **_: Any) -> None:  # more settings where hydra-joblib-launcher is installed too
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

        try:
            from captioning.sweeps.submitit import run_on_slurm
        except ModuleNotFoundError as error:
            raise UserError(f"hydra/launcher=slurm: no {error.name} here; pip install -e '.[slurm]'") from error
        self.sweep = Sweep(config, hydra_context.config_loader, partial(run_on_slurm, settings=self.settings))
