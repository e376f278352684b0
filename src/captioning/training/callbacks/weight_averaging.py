"""An average of the weights over the steps of a training, which is what is validated, kept and exported."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, cast

import lightning as L
import torch
from annotated_types import Gt, Lt
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from captioning.errors import UserError, check_arguments
from captioning.training.loop_state import State

if TYPE_CHECKING:
    from captioning.training.module import CaptionModule

NETWORK = "model."  # what the network's weights begin with in a checkpoint


class ExponentialMovingAverage(L.Callback):
    """Keeps an exponential moving average (EMA) of the weights, updated after each optimizer step: 4 bytes a weight.

    Steps are taken on the raw weights; validation, the best checkpoint, the test and the model folder are of the
    average. So is a checkpoint's ``state_dict``; the raw weights are in ``current_model_state``, as in Lightning's
    ``WeightAveraging``, which would test the raw weights of a checkpoint and copy the module before its network exists.

    Args:
        decay: how much of the average is kept at an update: 0.999 averages over about the last thousand steps. The
            n-th update keeps at most n / (n + 9), so that a short run isn't averaged with where it began.
    """

    def __init__(self, *, decay: Annotated[float, Gt(0), Lt(1)] = 0.999) -> None:
        check_arguments(type(self).__init__, {"decay": decay}, section="callbacks.ema")
        self.decay = decay
        self._average: AveragedModel | None = None
        self._updated_at = 0  # the optimizer step
        self._is_swapped = False  # whether the module has the average, and the average's place the raw weights

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._average, self._is_swapped = None, False  # of an earlier training; a test has no use for it
        if stage == "fit" and any(getattr(one, "save_weights_only", False) for one in trainer.checkpoint_callbacks):
            raise UserError(
                "callbacks.checkpoint.save_weights_only=true and callbacks=ema: such a checkpoint would hold the raw "
                "weights, which nothing was validated with; leave one of them out"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._average is None:  # else it came from a checkpoint
            self._start(trainer, pl_module)
        else:
            self._average.to(pl_module.device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self._update(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swap(pl_module, average=True)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swap(pl_module, average=False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._swap(pl_module, average=False)  # a validation may have been broken off

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._update(trainer, pl_module)
        self._swap(pl_module, average=True)

    def _start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> AveragedModel:
        network = cast("CaptionModule", pl_module).network
        if any(parameter.dtype != torch.float32 for parameter in network.parameters()):
            raise UserError(
                f"trainer.precision={trainer.precision} and callbacks=ema: an average over many steps needs weights of "
                "32 bits; take trainer.precision=bf16-mixed"
            )
        self._average = AveragedModel(network, multi_avg_fn=self._approach)
        self._average.requires_grad_(False)
        self._updated_at = trainer.global_step
        return self._average

    def _approach(self, averages: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor | int) -> None:
        kept = min(self.decay, int(updates) / (int(updates) + 9))
        torch._foreach_lerp_(list(averages), list(weights), 1 - kept)

    def _update(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Once for each optimizer step, whoever asks first: this or a checkpoint that is written after the step."""
        if self._average is not None and not self._is_swapped and trainer.global_step > self._updated_at:
            self._average.update_parameters(cast("CaptionModule", pl_module).network)
            self._updated_at = trainer.global_step

    def _swap(self, pl_module: L.LightningModule, *, average: bool) -> None:
        """Give the module the average, or else the raw weights, by exchanging storage: nothing is copied."""
        if self._average is None or self._is_swapped == average:
            return
        network = cast("CaptionModule", pl_module).network
        with torch.inference_mode(False):
            for one, other in zip(network.parameters(), self._average.module.parameters(), strict=True):
                one.data, other.data = other.data, one.data
        self._is_swapped = average

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: State) -> None:
        if self._average is None:
            return
        self._update(trainer, pl_module)
        mine, other = checkpoint["state_dict"], self._average.module.state_dict()
        other = {**mine, **{NETWORK + name: value for name, value in other.items()}}
        raw, average = (other, mine) if self._is_swapped else (mine, other)
        checkpoint["state_dict"], checkpoint["current_model_state"] = average, raw
        checkpoint["averaging_state"] = {"n_averaged": self._average.n_averaged}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: State) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return  # a test is of the average, which the module has from the checkpoint's state_dict
        average = self._start(trainer, pl_module)  # of what the module has just loaded
        self._updated_at = checkpoint["global_step"]
        if "current_model_state" in checkpoint:
            average.n_averaged.copy_(checkpoint["averaging_state"]["n_averaged"])
            pl_module.load_state_dict(checkpoint["current_model_state"])
