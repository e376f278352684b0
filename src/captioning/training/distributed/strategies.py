"""How Lightning shares a training among processes: copies of the model (DDP), or parts of it (FSDP)."""

import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from captioning.errors import UserError
from captioning.models.git import GitForCausalLM
from captioning.models.loading import model_from_config
from captioning.models.lora import merged
from captioning.training.callbacks.weight_averaging import ExponentialMovingAverage
from captioning.training.distributed.environment import exit_with_parent, started_processes, under_srun
from captioning.training.distributed.launcher import LaunchedDDPStrategy, LaunchedFSDPStrategy, StepEnvironment
from captioning.training.loop_state import State

if TYPE_CHECKING:
    from captioning.training.module import CaptionModule


def trainer_arguments(
    arguments: Mapping[str, Any], *, callbacks: Sequence[L.Callback], timeout_seconds: float
) -> dict[str, Any]:
    """Lightning's arguments for the processes that there are, or are to be started.

    Args:
        arguments: of ``lightning.Trainer``, as the user has them.
        callbacks: the trainer's.
        timeout_seconds: how long a process waits for the others.

    Raises:
        UserError: more or fewer processes were started than the settings ask for, or they can't work in this way.
    """
    if not timeout_seconds > 0:
        raise UserError(f"collective_timeout_seconds must be above 0, got {timeout_seconds}")
    _require_supported(arguments, callbacks)
    exit_with_parent()
    timeout, started = timedelta(seconds=timeout_seconds), started_processes()
    # By the first of these names Lightning finds what "auto" comes to with several processes.
    for name in ("ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true"):
        ddp: dict[str, Any] = {"timeout": timeout, "find_unused_parameters": name.endswith("true")}
        # A view spares a copy of the gradients.
        StrategyRegistry.register(name, LaunchedDDPStrategy, override=True, gradient_as_bucket_view=True, **ddp)
    changed = dict(arguments)
    if started is not None:
        changed |= _as_started(arguments, *started)
    if arguments.get("strategy") == "fsdp":
        changed |= {"strategy": ShardedStrategy(timeout=timeout), "inference_mode": False}
    environment: ClusterEnvironment | None = None
    if under_srun():
        environment = StepEnvironment()
    elif "SLURM_NTASKS" in os.environ and started is None:
        # One process, of sbatch, salloc or submitit, that starts the others; Lightning would refuse it.
        environment = LightningEnvironment()
    if environment is not None:
        plugins = arguments.get("plugins") or []
        changed["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), environment]
    return changed


def _require_supported(arguments: Mapping[str, Any], callbacks: Sequence[L.Callback]) -> None:
    strategy, precision = str(arguments.get("strategy")), str(arguments.get("precision"))
    if re.match(r"ddp_(spawn|fork|notebook)", strategy):
        way_out = "take trainer.strategy=ddp, or leave it out"
        raise UserError(f"trainer.strategy={strategy}: its processes end before the test; {way_out}")
    if strategy.startswith(("fsdp_", "model_parallel", "deepspeed", "xla_fsdp")):
        raise UserError(f"trainer.strategy={strategy}: of those that divide a model up, take fsdp")
    if strategy == "fsdp" and precision.startswith("16"):
        raise UserError(
            f"trainer.strategy=fsdp and trainer.precision={precision}: fsdp takes bf16-mixed, bf16-true or 32-true"
        )
    if strategy == "fsdp" and any(isinstance(callback, ExponentialMovingAverage) for callback in callbacks):
        raise UserError("trainer.strategy=fsdp and callbacks=ema: no average is kept of weights that are divided up")


def _as_started(arguments: Mapping[str, Any], devices: int, nodes: int) -> dict[str, Any]:
    """The numbers of devices and machines as torchrun or srun decided them.

    Raises:
        UserError: the user asks for others.
    """
    asked_devices, asked_nodes = arguments.get("devices", "auto"), arguments.get("num_nodes", 1)
    asked = len(asked_devices) if isinstance(asked_devices, list) else asked_devices
    if asked not in ("auto", -1, "-1", None, devices, str(devices)) or asked_nodes not in (1, nodes):
        each = f", {devices} on each machine" if nodes > 1 else ""
        raise UserError(
            f"trainer.devices={asked_devices} trainer.num_nodes={asked_nodes}: {devices * nodes} processes were "
            f"started{each}; leave both settings out"
        )
    return {"devices": asked_devices if isinstance(asked_devices, list) else devices, "num_nodes": nodes}


class ShardedStrategy(LaunchedFSDPStrategy):
    """FSDP: weights, gradients and the optimizer's state divided among all processes, for models that don't fit.

    On GPUs and, for its tests, on CPUs. Its checkpoints are files like those of any other strategy, and each resumes
    from the other's.
    """

    def __init__(self, *, timeout: timedelta) -> None:
        super().__init__(save_distributed_checkpoint=False, timeout=timeout)

    def setup(self, trainer: L.Trainer) -> None:
        # As Lightning does it, but that it would have the module divide itself up.
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        shard(self._module, self.device_mesh["data_parallel"])
        self.model = self.precision_plugin.convert_module(self._module)
        self.model_to_device()
        self.barrier()
        self.optimizers, self.lr_scheduler_configs = [], []  # of a training before
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    # Lightning numbers parameters as the module does, an optimizer of any other strategy by its groups.

    def optimizer_state(self, optimizer: Optimizer) -> State:
        """The whole state, on the first process, with parameters numbered as an optimizer numbers them itself."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        by_name: State = get_optimizer_state_dict(self._module, optimizer, options=options)
        if not self.is_global_zero:
            return {}
        groups: list[State] = by_name["param_groups"]
        numbers = {name: number for number, name in enumerate(name for group in groups for name in group["params"])}
        return {
            "state": {numbers[name]: state for name, state in by_name["state"].items()},
            "param_groups": [{**group, "params": [numbers[name] for name in group["params"]]} for group in groups],
        }

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> State:
        """Load any strategy's checkpoint, each process its own part of it."""
        path = self.broadcast(checkpoint_path)
        checkpoint: State = self.checkpoint_io.load_checkpoint(path, weights_only=weights_only)
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self._module, checkpoint["state_dict"], options=options)
        names = {parameter: name for name, parameter in self._module.named_parameters()}
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
            groups = [
                {**group, "params": [names[parameter] for parameter in own["params"]]}
                for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
            ]
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            named = [name for group in groups for name in group["params"]]
            state = {name: saved["state"][number] for name, number in zip(named, numbers, strict=True)}
            by_name: Any = {"state": state, "param_groups": groups}
            set_optimizer_state_dict(self._module, optimizer, optim_state_dict=by_name, options=options)
        return checkpoint

    @property
    def _module(self) -> "CaptionModule":
        return cast("CaptionModule", self.lightning_module)


def shard(module: "CaptionModule", mesh: DeviceMesh) -> None:
    """Divide a module's parameters among the processes of ``mesh``, layer by layer; done once.

    A layer's are whole while it computes, those outside of layers during a whole step.
    """
    if isinstance(module, FSDPModule):
        return
    git = module.network.git
    for layer in [*git.image_encoder.vision_model.encoder.layers, *git.encoder.layer]:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for step in ("training_step", "validation_step", "test_step"):
        register_fsdp_forward_method(module, step)


def whole_network(module: "CaptionModule") -> GitForCausalLM | None:
    """A plain GIT with all weights, the adapters merged into them. The module stays as it is.

    Where weights are divided up, all processes ask, and the first gets it.
    """
    weights: Mapping[str, Any]
    if isinstance(module, FSDPModule):
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(module, options=options)
        if not module.trainer.is_global_zero:
            return None
    elif module.lora.rank:
        weights = module.state_dict()
    else:
        return module.network
    config, generation = module.network.config.to_dict(), module.network.generation_config.to_dict()
    network = model_from_config(config, generation)
    named: dict[str, Any] = {name.removeprefix("model."): weight for name, weight in weights.items()}
    network.load_state_dict(merged(named, module.lora))
    return network
