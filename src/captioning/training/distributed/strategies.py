"""How Lightning shares a training among processes: copies of the model (DDP), or parts of it (FSDP)."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, StrategyRegistry
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
from captioning.training.distributed.environment import started_processes, under_srun, watch_launcher
from captioning.training.distributed.launcher import Launcher, StepEnvironment, meet
from captioning.training.module import CaptionModule


def trainer_arguments(
    arguments: dict[str, Any], *, callbacks: Sequence[L.Callback], timeout_seconds: float
) -> dict[str, Any]:
    """Lightning's arguments for the processes that there are, or are to be started.

    Args:
        arguments: of ``lightning.Trainer``, as the user has them.
        callbacks: what stands beside the training.
        timeout_seconds: how long a process waits for the others.

    Raises:
        UserError: more or fewer processes were started than the settings ask for, or they can't work in this way.
    """
    if not timeout_seconds > 0:
        raise UserError(f"collective_timeout_seconds must be above 0, got {timeout_seconds}")
    watch_launcher()
    timeout = timedelta(seconds=timeout_seconds)
    # By these names Lightning finds what "auto" comes to with several processes.
    shared: dict[str, Any] = {"timeout": timeout, "gradient_as_bucket_view": True}  # the latter spares a copy of them
    StrategyRegistry.register("ddp", WatchedDDPStrategy, override=True, **shared)
    changed = {**arguments, **_as_started(arguments)}
    if arguments.get("strategy") == "fsdp":
        _require_shardable(arguments, callbacks)
        changed |= {"strategy": ShardedStrategy(timeout=timeout), "inference_mode": False}
    elif str(arguments.get("strategy")).startswith(("fsdp_", "model_parallel", "deepspeed", "xla_fsdp")):
        raise UserError(f"trainer.strategy={arguments['strategy']}: of those that divide a model up, take fsdp")
    environment = cluster_environment()
    if environment is not None:
        plugins = arguments.get("plugins") or []
        changed["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), environment]
    return changed


def _require_shardable(arguments: dict[str, Any], callbacks: Sequence[L.Callback]) -> None:
    if str(arguments.get("precision")).startswith("16"):
        raise UserError(
            f"trainer.strategy=fsdp and trainer.precision={arguments['precision']}: fsdp takes bf16-mixed, bf16-true "
            "or 32-true"
        )
    if any(isinstance(callback, ExponentialMovingAverage) for callback in callbacks):
        raise UserError("trainer.strategy=fsdp and callbacks=ema: no average is kept of weights that are divided up")


def _as_started(arguments: dict[str, Any]) -> dict[str, Any]:
    """The numbers of devices and machines where torchrun or srun decide them.

    Raises:
        UserError: the user asks for others.
    """
    started = started_processes()
    if started is None:
        return {}
    devices, nodes = started
    asked_devices, asked_nodes = arguments.get("devices", "auto"), arguments.get("num_nodes", 1)
    asked = len(asked_devices) if isinstance(asked_devices, list) else asked_devices
    if asked not in ("auto", -1, "-1", None, devices, str(devices)) or asked_nodes not in (1, nodes):
        raise UserError(
            f"trainer.devices={asked_devices} trainer.num_nodes={asked_nodes}: "
            f"{devices * nodes} processes were started"
            + (f", {devices} on each machine" if nodes > 1 else "")
            + "; leave both settings out"
        )
    return {"devices": asked_devices if isinstance(asked_devices, list) else devices, "num_nodes": nodes}


def cluster_environment() -> ClusterEnvironment | None:
    """Who is asked for ranks and addresses; None leaves it to Lightning to find out."""
    if under_srun():
        return StepEnvironment()
    if "SLURM_NTASKS" in os.environ and started_processes() is None:
        # One process, of sbatch, salloc or submitit, that starts the others; Lightning would refuse it.
        return LightningEnvironment()
    return None


class WatchedDDPStrategy(DDPStrategy):
    """Lightning's DDP with :class:`Launcher`, and :func:`meet` before it."""

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def setup_distributed(self) -> None:
        assert self._timeout is not None
        meet(self.root_device, timeout=self._timeout)
        super().setup_distributed()


class ShardedStrategy(ModelParallelStrategy):
    """FSDP: weights, gradients and the optimizer's state divided among all processes, for models that don't fit.

    On GPUs and, for its tests, on CPUs. Its checkpoints are files like those of any other strategy, and each goes on
    with the other's.
    """

    def __init__(self, *, timeout: timedelta) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout)

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def setup_environment(self) -> None:
        assert self._timeout is not None
        self._data_parallel_size = self.num_nodes * self.num_processes
        meet(self.root_device, timeout=self._timeout)
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        # As Lightning does it, but that it would have the module divide itself up.
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        shard(self._module, self.device_mesh["data_parallel"])
        self.model = self.precision_plugin.convert_module(self._module)
        self.model_to_device()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        else:
            self._reset_optimizers_and_schedulers()  # of a training before
        self.setup_precision_plugin()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state, on the first process, with parameters numbered as an optimizer numbers them itself."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        by_name: dict[str, Any] = get_optimizer_state_dict(self._module, optimizer, options=options)
        if self.global_rank:
            return {}
        groups: list[dict[str, Any]] = by_name["param_groups"]
        numbers = {name: number for number, name in enumerate(name for group in groups for name in group["params"])}
        return {
            "state": {numbers[name]: state for name, state in by_name["state"].items()},
            "param_groups": [{**group, "params": [numbers[name] for name in group["params"]]} for group in groups],
        }

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load any strategy's checkpoint, each process its own part of it."""
        path = self.broadcast(checkpoint_path)
        checkpoint: dict[str, Any] = self.checkpoint_io.load_checkpoint(path, weights_only=weights_only)
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
    def _module(self) -> CaptionModule:
        assert isinstance(self.lightning_module, CaptionModule)
        return self.lightning_module


def shard(module: CaptionModule, mesh: DeviceMesh) -> None:
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


def whole_network(module: CaptionModule) -> GitForCausalLM | None:
    """A plain GIT with all weights, the adapters merged into them. The module stays as it is.

    Where weights are divided up, all processes ask, and the first gets it.
    """
    weights: Mapping[str, Any]
    if isinstance(module, FSDPModule):
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(module, options=options)
        if module.trainer.global_rank:
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
