"""``find_batch_size`` and ``find_lr``: the batch size that fits into memory, and an LR range test."""

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning as L
import numpy as np
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from lightning.pytorch.utilities.seed import isolate_rng

from captioning.errors import NotFiniteError, UserError
from captioning.runs.run_folder import RunFolder
from captioning.training.callbacks import callbacks_of_type
from captioning.training.callbacks.graceful_shutdown import GracefulShutdown
from captioning.training.callbacks.validate_every import ValidateEvery
from captioning.training.datamodule import CaptionDataModule
from captioning.training.module import CaptionModule

if TYPE_CHECKING:
    from captioning.config.schema import Config

_log = logging.getLogger(__name__)

FOUND = {"find_batch_size": "data.batch_size", "find_lr": "model.lr"}  # in the order of the searches
RATES: list[float] = np.geomspace(1e-7, 1.0, 100).tolist()
HALF_WINDOW = 4  # steps on either side that a loss is smoothed over, about a quarter of a decade


def require_tunable(settings: "Config", trainer: L.Trainer) -> None:
    """Raise UserError for a search that can't be made on these devices."""
    if not (names := [name for name in FOUND if getattr(settings, name)]):
        return
    if trainer.world_size > 1:
        found = " and ".join(FOUND[name] for name in names)
        raise UserError(
            f"{names[0]}=true: one process searches, and there are {trainer.world_size}; search with trainer.devices=1 "
            f"trainer.max_epochs=0, and give what is found as {found}"
        )
    if "find_batch_size" in names and trainer.strategy.root_device.type == "cpu":
        raise UserError("find_batch_size=true: on a CPU data.batch_size hardly changes the speed; set it")


def tune(
    run: RunFolder, settings: "Config", trainer: L.Trainer, module: CaptionModule, datamodule: CaptionDataModule
) -> dict[str, float]:
    """Search what ``find_batch_size`` and ``find_lr`` ask for, and let data and module have it.

    Weights and random numbers are afterwards as before. Returns what was found, by the dotted key of the setting.
    Lightning's ``Tuner`` would read the loss of a single micro-batch, which here is a sum over its tokens.
    """
    found: dict[str, float] = {}
    if not (settings.find_batch_size or settings.find_lr):
        return found
    weights = {name: value.detach().to("cpu", copy=True) for name, value in module.network.state_dict().items()}

    def fit(callback: L.Callback, **own: Any) -> None:
        given = settings.trainer
        length = {"max_epochs": -1, "min_steps": None, "min_epochs": None, "max_time": None, "overfit_batches": 0.0}
        batches = {"limit_train_batches": None, "limit_val_batches": int(given["limit_val_batches"] != 0)}
        validation = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": None, "val_check_interval": sys.maxsize}
        no_files = {"logger": False, "profiler": None, "enable_checkpointing": False, "enable_model_summary": False}
        # One process, whatever SLURM's variables say of others.
        device = {"strategy": "auto", "precision": trainer.precision, "plugins": [LightningEnvironment()]}
        callbacks = {"callbacks": [callback, *callbacks_of_type(trainer, GracefulShutdown)], "fast_dev_run": False}
        try:
            own = given | length | batches | validation | no_files | device | callbacks | own
            L.Trainer(**own).fit(module, datamodule)
        finally:
            module.network.load_state_dict(weights)
            module.zero_grad(set_to_none=True)
            module.evaluations.clear()

    with isolate_rng():
        if settings.find_batch_size:
            found["data.batch_size"] = datamodule.hparams["batch_size"] = find_batch_size(fit, datamodule)
        if settings.find_lr:
            curve = find_lr(fit)
            curve.write(run)
            lr = curve.suggested or settings.model["lr"]
            why = "see find_lr.png in the run folder" if curve.suggested else "which is kept: the loss fell at no rate"
            _log.info(f"find_lr: model.lr={lr:g}, {why}")
            found["model.lr"] = module.hparams["lr"] = lr
    return found


class Curve(NamedTuple):
    """The loss after a step with each learning rate, in nats per token, and the learning rate to train with."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggested: float | None  # None: the loss didn't fall

    def write(self, run: RunFolder) -> None:
        """Write ``find_lr.json`` and ``find_lr.png``."""
        from matplotlib.figure import Figure  # takes half a second

        run.write_json("find_lr.json", self._asdict())
        figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, color="0.75", linewidth=1, label="loss of the next step")
        axes.plot(self.rates, self.smoothed, color="tab:blue", label="smoothed")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats per token)")
        if self.suggested is not None:
            axes.set_ylim(min(self.smoothed) * 0.9, self.smoothed[0] * 1.3)
            axes.axvline(self.suggested, color="tab:red", linestyle="--", label=f"model.lr={self.suggested:g}")
        axes.legend(frameon=False)
        figure.savefig(run.path / "find_lr.png")


class LRRangeTest(L.Callback):
    """Takes each step with the next of ``RATES``, and records the loss before it, until that diverges."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = RATES[min(trainer.global_step, len(RATES) - 1)]

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step > len(self.losses):
            self.losses.append(trainer.callback_metrics["train/loss"].item())
            trainer.should_stop = bool(np.mean(self.losses[-HALF_WINDOW:]) > 2 * min(smooth(self.losses)))


def find_lr(fit: Callable[..., None]) -> Curve:
    """The LR range test of Smith 2017 (Cyclical Learning Rates for Training Neural Networks, section 3.3)."""
    test = LRRangeTest()
    _log.info(f"find_lr: {len(RATES)} steps with learning rates from {RATES[0]:g} to {RATES[-1]:g}")
    with contextlib.suppress(NotFiniteError):  # the end of the curve
        fit(test, max_steps=len(RATES) + 1, limit_val_batches=0)
    losses = test.losses[1:]  # the first is of a model that has taken no step
    smoothed = smooth(losses)
    return Curve(RATES[: len(losses)], losses, smoothed, suggest_lr(smoothed))


def smooth(losses: Sequence[float]) -> list[float]:
    """Means over a centered window, which is smaller at both ends."""
    reaches = [min(HALF_WINDOW, at, len(losses) - 1 - at) for at in range(len(losses))]
    return [float(np.mean(losses[at - reach : at + reach + 1])) for at, reach in enumerate(reaches)]


def suggest_lr(smoothed: Sequence[float]) -> float | None:
    """The rate at which the loss falls most steeply per decade, before its minimum; None if it falls by under 5 %."""
    lowest = int(np.argmin(smoothed)) if smoothed else 0
    if lowest <= HALF_WINDOW or smoothed[lowest] > 0.95 * np.mean(smoothed[: len(RATES) // 10]):
        return None
    steepest = HALF_WINDOW + int(np.argmin(np.gradient(smoothed)[HALF_WINDOW:lowest]))
    return float(f"{RATES[steepest]:.1e}")


def find_batch_size(fit: Callable[..., None], datamodule: CaptionDataModule) -> int:
    """The largest power of two for which training and validation fit into GPU memory, with an eighth to spare."""
    most = 4096 if datamodule.shards is not None else min(4096, len(datamodule.splits["train"]))
    given, size = datamodule.hparams["batch_size"], 1
    _log.info("find_batch_size: 2 steps and a validation batch with 1, 2, 4 … images")
    try:
        while size <= most:
            datamodule.hparams["batch_size"] = size + -(-size // 8)
            fit(ValidateEvery(None), max_steps=2)  # AdamW allocates its moments in the first
            size *= 2
    except RuntimeError as error:
        if not is_oom_error(error):
            raise
        garbage_collection_cuda()
    finally:
        datamodule.hparams["batch_size"] = given
    if size == 1:
        raise UserError(
            "find_batch_size=true: not even 2 images fit into memory; try model.gradient_checkpointing=true"
        )
    _log.info(f"find_batch_size: data.batch_size={size // 2}")
    return size // 2
