"""All that exact resume knows of the inside of Lightning. Each function says what breaks without it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L

State = dict[str, Any]  # a checkpoint, or a part of one


class Position(NamedTuple):
    """How far a training is, in batches of each process."""

    epoch: int
    batches: int  # of this epoch; all of them where only the epoch's end is missing
    total_batches: int  # of all epochs


def position(trainer: L.Trainer) -> Position:
    """The position between two batches, at the end of an epoch, or after training: the data resume from it."""
    loop = trainer.fit_loop
    epochs: Any = loop.epoch_progress.current
    progress = loop.epoch_loop.batch_progress
    batches, total = progress.current.ready, progress.total.ready
    if not batches or (batches >= trainer.num_training_batches and epochs.processed == epochs.ready):
        return Position(epochs.processed, 0, total)
    return Position(epochs.ready - 1, batches, total)


def normalize(loops: Mapping[str, Any], trainer: L.Trainer) -> None:
    """Bring the loops' part of a checkpoint into one form, whichever hook it is saved from.

    Lightning's counts differ from hook to hook, and a restart might count a step twice for loggers, or validate again.
    """
    epoch, batches, _ = position(trainer)
    begun, state = epoch + (batches > 0), loops["fit_loop"]
    for counts in state["epoch_progress"].values():
        counts.update(ready=begun, started=begun, processed=epoch, completed=epoch)
    progress = state["epoch_loop.batch_progress"]
    _set_all(progress["total"], progress["total"]["ready"])
    _set_all(progress["current"], batches)
    progress["is_last_batch"] = batches >= trainer.num_training_batches
    state["epoch_loop.state_dict"]["_batches_that_stepped"] = trainer.global_step
    for name in [name for name in state if name.startswith("epoch_loop.val_loop.")]:
        del state[name]


def set_position(trainer: L.Trainer, batches: int, total_batches: int) -> None:
    """Count batches as done: another number of processes has other numbers of them."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    _set_all(vars(progress.current), batches)
    _set_all(vars(progress.total), total_batches)
    progress.is_last_batch = batches >= trainer.num_training_batches


def is_resuming(trainer: L.Trainer) -> bool:
    """Whether the training that starts comes from a checkpoint."""
    return trainer.fit_loop.is_resuming


def forget_ckpt_path(trainer: L.Trainer) -> None:
    """Else the best checkpoint, if it was resumed from, is never removed when a better one takes its place."""
    trainer.ckpt_path = None


def count_steps(trainer: L.Trainer, ahead: int = 0) -> None:
    """Let loggers count optimizer steps as the trainer does; else a restart can be one ahead in the curves."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step + ahead


def log_step(trainer: L.Trainer) -> None:
    """Give loggers the numbers of the step now; Lightning does after its hooks, too late for a checkpoint in one."""
    trainer._logger_connector.update_train_step_metrics()


def is_between_steps(trainer: L.Trainer) -> bool:
    """Whether no gradients wait for further micro-batches; they would be lost in a checkpoint."""
    return not trainer.fit_loop._should_accumulate()


def validation_is_due(trainer: L.Trainer) -> bool:
    """At the end of a batch: whether Lightning validates next; a run killed in between must make up for it."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def set_validation_due(trainer: L.Trainer, is_due: bool, *, is_end: bool = False) -> None:
    """In ``on_train_batch_end``: decide whether Lightning validates next, which it does at multiples of a number.

    At the end of training, epochs that aren't due (``check_val_every_n_epoch``) are validated too.
    """
    trainer.val_check_batch = 1 if is_due else sys.maxsize
    if is_end:
        trainer.check_val_every_n_epoch = None


def validate(trainer: L.Trainer) -> None:
    """Validate the weights of the last step, as Lightning would have before the run was interrupted."""
    count_steps(trainer, -1)  # as it is at a step's end
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
    # Or an epoch of which only the end is missing would be left in a way that leaves the next one too.
    trainer.fit_loop.epoch_loop.val_loop._has_run = False
    count_steps(trainer)


def move_best(state: State, folder: Path, mode: str, *, save_top_k: int) -> list[Path]:
    """Point a ModelCheckpoint's state to the run folder's place now; Lightning would forget the best of another one.

    Returns those beyond ``save_top_k`` (-1: all are kept), which Lightning wouldn't remove any more.
    """
    moved = {str(folder / Path(path).name): score for path, score in state["best_k_models"].items()}
    found = sorted((path for path in moved if Path(path).is_file()), key=moved.__getitem__, reverse=mode == "max")
    kept = found if save_top_k < 0 else found[:save_top_k]
    best, worst = (kept[0], kept[-1]) if kept else ("", "")
    state |= {"dirpath": str(folder), "last_model_path": "", "best_k_models": {path: moved[path] for path in kept}}
    state |= {"best_model_path": best, "best_model_score": moved.get(best)}
    if kept:
        state |= {"kth_best_model_path": worst, "kth_value": moved[worst]}
    return [Path(path) for path in found[len(kept) :]]


def _set_all(counts: State, number: int) -> None:
    counts.update(dict.fromkeys(("ready", "started", "processed", "completed"), number))
