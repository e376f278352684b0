"""The project's sweeper and launchers, where Hydra looks for them; it imports this at every start."""

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from captioning.errors import UserError


class OptunaSweeper(Sweeper):
    """``hydra/sweeper=optuna``; its settings are those of :class:`captioning.sweeps.optuna.OptunaSearch`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> Any:
        try:
            from captioning.sweeps.optuna import search
        except ModuleNotFoundError as error:
            raise UserError(f"hydra/sweeper=optuna: no {error.name} here; pip install -e '.[optuna]'") from error
        return search(self, arguments, **self.settings)


try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher, SlurmLauncher
except ImportError:
    pass
else:

    class CaptioningLocalLauncher(LocalLauncher):  # type: ignore[misc]
        """``hydra/launcher=slurm-local``: SLURM's way on this machine, all jobs at once."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            from captioning.sweeps.submitit import launch

            return launch(self, job_overrides, initial_job_idx)

    class CaptioningSlurmLauncher(SlurmLauncher):  # type: ignore[misc]
        """``hydra/launcher=slurm``: a job of SLURM for each job of the sweep."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            from captioning.sweeps.submitit import launch

            return launch(self, job_overrides, initial_job_idx)
