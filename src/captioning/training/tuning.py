"""Settings that are found by trying: the batch size that fits into memory, and the learning rate."""

import contextlib
import copy
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from lightning.pytorch.utilities.seed import isolate_rng

from captioning.errors import UserError
from captioning.files import write_json
from captioning.training.callbacks import callbacks_of_type
from captioning.training.callbacks.graceful_shutdown import GracefulShutdown
from captioning.training.callbacks.validate_every import ValidateEvery
from captioning.training.datamodule import CaptionDataModule
from captioning.training.memory import read_proc_status
from captioning.training.module import CaptionModule, NotFiniteError
from captioning.training.signals import Interrupted

_log = logging.getLogger(__name__)

LOWEST, HIGHEST, RATES = 1e-7, 1.0, 100  # of the learning rates that are tried, a step each
HALF_WINDOW = 4  # rates on either side that a loss is smoothed over, about a quarter of a decade
DIVERGED = 2.0  # times the lowest loss
STEPS = 2  # of a batch size that is tried: AdamW has its moments from the second on
SAFETY_MARGIN = 8  # the batch that is tried has one more image for each so many
LARGEST = 4096


class Curve(NamedTuple):
    """What each learning rate did: the loss of the step after it, in nats a token, and the rate that is suggested."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggested: float | None  # None: no rate made the loss fall

    def write(self, folder: Path) -> None:
        """Leave it in a run folder, as ``find_lr.json`` and drawn as ``find_lr.png``."""
        write_json(folder / "find_lr.json", self._asdict())
        draw(self, folder / "find_lr.png")


def require_one_process(settings: dict[str, Any], trainer: L.Trainer) -> None:
    """Refuse a search that several processes would have to make together.

    Raises:
        UserError: a search is asked for, and can't be made.
    """
    names = [name for name in ("find_batch_size", "find_lr") if settings[name]]
    if names and trainer.world_size > 1:
        found = " and ".join({"find_batch_size": "data.batch_size", "find_lr": "model.lr"}[name] for name in names)
        raise UserError(
            f"{names[0]}=true: one process searches, and there are {trainer.world_size}; search with trainer.devices=1 "
            f"trainer.max_epochs=0, and give what is found as {found}"
        )
    if names and settings["trainer"]["fast_dev_run"]:
        raise UserError(f"{names[0]}=true and trainer.fast_dev_run: a search takes many steps; leave one of them out")


def tune(
    cfg: Any, settings: dict[str, Any], trainer: L.Trainer, module: CaptionModule, datamodule: CaptionDataModule
) -> tuple[Any, dict[str, Any], Curve | None]:
    """Search what ``find_batch_size`` and ``find_lr`` ask for, in this order, and let module and data have it.

    Weights and random numbers are afterwards as they were, and no file is written. Lightning's own ``Tuner`` isn't
    used: it reads the loss of a single micro-batch, which here is a sum over its tokens; it looks for the steepest fall
    per unit of the learning rate, where the lowest rates are so near to each other that noise decides; and it fills the
    memory of a CPU until the system kills the process.

    Args:
        cfg: the configuration.
        settings: the same as plain Python.
        trainer: of the run, which isn't used but for what it is.
        module: with its network.
        datamodule: set up.

    Returns:
        The configuration and the settings with what was found in place of what was given, and the curve of learning
        rates, if they were searched.

    Raises:
        UserError: not even one image at a time fits into memory.
    """
    cfg, settings, curve = copy.deepcopy(cfg), copy.deepcopy(settings), None
    with isolate_rng(), _weights_kept(module):
        if cfg.find_batch_size:
            size = find_batch_size(settings, trainer, module, datamodule)
            cfg.data.batch_size = settings["data"]["batch_size"] = datamodule.hparams["batch_size"] = size
        if cfg.find_lr:
            curve = find_lr(settings, trainer, module, datamodule)
            if curve.suggested is None:
                _log.warning(
                    f"find_lr: the loss fell at no learning rate; model.lr={settings['model']['lr']:g} is kept"
                )
            else:
                _log.info(f"find_lr: model.lr={curve.suggested:g}, see find_lr.png in the run folder")
                cfg.model.lr = settings["model"]["lr"] = module.hparams["lr"] = curve.suggested
    return cfg, settings, curve


def restore_tuned(settings: dict[str, Any], saved: dict[str, Any]) -> None:
    """Let settings of a command that searches have what it has found already, as a run's own settings say."""
    for search, section, name in (("find_batch_size", "data", "batch_size"), ("find_lr", "model", "lr")):
        if settings.get(search) and saved.get(search):
            settings[section][name] = saved[section][name]


# ------------------------------------------------------------ the learning rate


class LRRangeTest(L.Callback):
    """Takes each step with the next of ever higher learning rates, and notes the loss after it.

    Args:
        rates: a learning rate for each step.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = rates
        self.losses: list[float] = []  # before each step

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.rates[min(trainer.global_step, len(self.rates) - 1)]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > len(self.losses):
            self.losses.append(trainer.callback_metrics["train/loss"].item())
            newest = self.losses[-HALF_WINDOW:]
            trainer.should_stop = sum(newest) / len(newest) > DIVERGED * min(smooth(self.losses))


def find_lr(
    settings: dict[str, Any], trainer: L.Trainer, module: CaptionModule, datamodule: CaptionDataModule
) -> Curve:
    """The loss over learning rates from 1e-7 to 1, and where on the way up it falls most steeply."""
    rates = [LOWEST * (HIGHEST / LOWEST) ** (step / (RATES - 1)) for step in range(RATES)]
    test = LRRangeTest(rates)
    _log.info(f"find_lr: {RATES} steps with learning rates from {LOWEST:g} to {HIGHEST:g}")
    with contextlib.suppress(NotFiniteError):  # the end of the curve
        _fit(settings, trainer, module, datamodule, test, max_steps=RATES + 1, limit_val_batches=0)
    return curve_of(rates, test.losses)


def curve_of(rates: Sequence[float], losses: Sequence[float]) -> Curve:
    """The curve of losses before each step with its learning rate, the first before any."""
    after = list(losses[1:])
    smoothed = smooth(after)
    return Curve(list(rates[: len(after)]), after, smoothed, suggestion(rates, smoothed, noise_of(after, smoothed)))


def smooth(losses: Sequence[float]) -> list[float]:
    """Means over a window around each, which is smaller at both ends: it lags behind on neither side."""
    means = []
    for at in range(len(losses)):
        reach = min(HALF_WINDOW, at, len(losses) - 1 - at)
        window = losses[at - reach : at + reach + 1]
        means.append(sum(window) / len(window))
    return means


def noise_of(losses: Sequence[float], smoothed: Sequence[float]) -> float:
    """How far losses usually are from their smoothed curve, where rates are still too low to do anything."""
    low = [abs(loss - mean) for loss, mean in zip(losses, smoothed, strict=True)][: RATES // 4]
    return sum(low) / max(len(low), 1)


def suggestion(rates: Sequence[float], smoothed: Sequence[float], noise: float) -> float | None:
    """The rate at which the loss falls most steeply per decade, before its lowest point; None where it doesn't fall."""
    if len(smoothed) < 2 * HALF_WINDOW:
        return None
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    start = smoothed[: RATES // 10]
    if smoothed[lowest] > sum(start) / len(start) - 2 * noise:
        return None
    slopes = {
        at: smoothed[at + 1] - smoothed[at - 1]  # the rates are evenly spaced in their logarithm
        for at in range(HALF_WINDOW, lowest)
        if at + 1 < len(smoothed)
    }
    steepest = min(slopes, key=slopes.__getitem__, default=None)
    return None if steepest is None else float(f"{rates[steepest]:.1e}")  # it isn't known to more digits


def draw(curve: Curve, path: Path) -> None:
    """The loss over the learning rate, as a PNG."""
    from matplotlib.figure import Figure  # takes half a second

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color="0.75", linewidth=1, label="loss of the next step")
    axes.plot(curve.rates, curve.smoothed, color="tab:blue", label="smoothed")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (nats per token)")
    finite = [loss for loss in curve.smoothed if math.isfinite(loss)]
    if finite:
        axes.set_ylim(min(finite) * 0.9, curve.smoothed[0] * 1.3)
    if curve.suggested is not None:
        axes.axvline(curve.suggested, color="tab:red", linestyle="--", label=f"model.lr={curve.suggested:g}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


# ------------------------------------------------------------ the batch size


def find_batch_size(
    settings: dict[str, Any], trainer: L.Trainer, module: CaptionModule, datamodule: CaptionDataModule
) -> int:
    """The largest power of two that fits into memory, with an eighth more to spare, for training and validation.

    Raises:
        UserError: not even 1 fits.
    """
    images = LARGEST if datamodule.shards is not None else len(datamodule.splits["train"])
    sizes = [2**power for power in range(13) if 2**power <= min(images, LARGEST)]
    given = datamodule.hparams["batch_size"]
    fits: list[int] = []
    _log.info(f"find_batch_size: {STEPS} steps and a validation batch with 1, 2, 4 … images")
    try:
        for size in sizes:
            datamodule.hparams["batch_size"] = size + -(-size // SAFETY_MARGIN)
            if not _fits(settings, trainer, module, datamodule):
                break
            fits.append(size)
    finally:
        datamodule.hparams["batch_size"] = given
    if not fits:
        raise UserError(
            "find_batch_size=true: not even one image and one to spare fit into memory; try "
            "model.gradient_checkpointing=true, or a smaller model"
        )
    why = "and no more fits" if len(fits) < len(sizes) else f"and there are no more than {images} images"
    _log.info(f"find_batch_size: data.batch_size={fits[-1]}, {why}")
    return fits[-1]


def _fits(settings: dict[str, Any], trainer: L.Trainer, module: CaptionModule, datamodule: CaptionDataModule) -> bool:
    validated = 0 if settings["trainer"]["limit_val_batches"] == 0 else 1
    try:
        with _memory_limited(trainer):
            # Without a bar, which needs a thread, for which there may be no memory.
            quiet = {**settings, "trainer": {**settings["trainer"], "enable_progress_bar": False}}
            _fit(quiet, trainer, module, datamodule, ValidateEvery(None), max_steps=STEPS, limit_val_batches=validated)
    except (RuntimeError, MemoryError) as error:
        # The last is what oneDNN says where it has no memory.
        if not (isinstance(error, MemoryError) or is_oom_error(error) or "could not create a primitive" in str(error)):
            raise
        return False
    finally:
        module.zero_grad(set_to_none=True)
        garbage_collection_cuda()
    return True


@contextlib.contextmanager
def _memory_limited(trainer: L.Trainer) -> Iterator[None]:
    """Let an allocation fail where it would take all memory that is available, or the system would kill the process."""
    if trainer.strategy.root_device.type != "cpu":
        yield
        return
    if not sys.platform.startswith("linux"):
        raise UserError(
            "find_batch_size=true: on a CPU this system can't tell how much is too much; set data.batch_size, of which "
            "a small one is as fast there"
        )
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = (
        read_proc_status("/proc/self/status", "VmData") + read_proc_status("/proc/meminfo", "MemAvailable") * 9 // 10
    )
    lowest = min(limit, *(own for own in before if own != resource.RLIM_INFINITY), sys.maxsize)
    resource.setrlimit(resource.RLIMIT_DATA, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


# ------------------------------------------------------------ a training that leaves nothing behind


class _Listen(L.Callback):
    """Ends a search at once when the run is told to stop: there is nothing to be saved."""

    def __init__(self, of: L.Trainer) -> None:
        self.interruptions = [stopping.interruption for stopping in callbacks_of_type(of, GracefulShutdown)]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for interruption in self.interruptions:
            interruption.listen()  # again, because Lightning listens by now

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for interruption in self.interruptions:
            if interruption.noted:  # where the signal itself couldn't end it, as within a message
                raise Interrupted(interruption.noted)


def _fit(
    settings: dict[str, Any],
    trainer: L.Trainer,
    module: CaptionModule,
    datamodule: CaptionDataModule,
    callback: L.Callback,
    *,
    max_steps: int,
    limit_val_batches: int,
) -> None:
    """A few steps as the run would take them, by a trainer of their own, without a trace on the disk."""
    length = {"max_steps": max_steps, "max_epochs": -1, "min_steps": None, "min_epochs": None, "max_time": None}
    batches = {"limit_train_batches": None, "limit_val_batches": limit_val_batches, "overfit_batches": 0.0}
    validation = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": None, "val_check_interval": sys.maxsize}
    nothing_kept = {"logger": False, "profiler": None, "enable_checkpointing": False, "enable_model_summary": False}
    own = {**settings["trainer"], **length, **batches, **validation, **nothing_kept}
    plugins = own["plugins"] or []
    own |= {"precision": trainer.precision, "strategy": "auto"}
    # One process, whatever SLURM's variables say of others.
    own["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), LightningEnvironment()]
    L.Trainer(**{**own, "callbacks": [callback, _Listen(trainer)]}).fit(module, datamodule)


@contextlib.contextmanager
def _weights_kept(module: CaptionModule) -> Iterator[None]:
    """Give the network back the weights that it has now, and the module its settings as far as they aren't found."""
    weights = {name: value.detach().to("cpu", copy=True) for name, value in module.network.state_dict().items()}
    try:
        yield
    finally:
        module.network.load_state_dict(weights)
        module.zero_grad(set_to_none=True)
        module.evaluations.clear()
