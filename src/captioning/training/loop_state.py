"""Where a training is, in Lightning's own counts. What we know of the inside of its loops is in this file."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning as L


class Place(NamedTuple):
    """How far a training is."""

    epoch: int
    batches: int  # of this epoch that each process is done with; all of them where only the epoch's end is missing


def place_of(trainer: L.Trainer) -> Place:
    """The place between two batches, at the end of an epoch, or after training."""
    loop = trainer.fit_loop
    epochs: Any = loop.epoch_progress.current
    begun, ended = epochs.ready, epochs.processed
    batches = loop.epoch_loop.batch_progress.current.ready
    if not batches or (batches >= trainer.num_training_batches and ended == begun):
        return Place(ended, 0)
    return Place(begun - 1, batches)


def settle(loops: Mapping[str, Any], trainer: L.Trainer) -> None:
    """Bring the loops' part of a checkpoint into one form, whichever hook it is saved from.

    Lightning's counts differ from hook to hook, and what it makes of them when it restarts differs too: it may count a
    step twice for loggers, or validate again. In this form a restart goes on with the next batch and does nothing else.
    """
    epoch, batches = place_of(trainer)
    state = loops["fit_loop"]
    for counts in (state["epoch_progress"]["total"], state["epoch_progress"]["current"]):
        begun = epoch + (batches > 0)
        counts.update(ready=begun, started=begun, processed=epoch, completed=epoch)
    progress = state["epoch_loop.batch_progress"]
    _set_all(progress["total"], progress["total"]["ready"])
    _set_all(progress["current"], batches)
    progress["is_last_batch"] = batches >= trainer.num_training_batches
    state["epoch_loop.state_dict"]["_batches_that_stepped"] = trainer.global_step
    for name in [name for name in state if name.startswith("epoch_loop.val_loop.")]:
        del state[name]


def go_to(trainer: L.Trainer, batches: int, of_all_epochs: int) -> None:
    """Count so many batches of the restarted epoch, and of all, as done: another number of processes has others."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    _set_all(vars(progress.current), batches)
    _set_all(vars(progress.total), of_all_epochs)
    progress.is_last_batch = batches >= trainer.num_training_batches


def count_steps(trainer: L.Trainer, ahead: int = 0) -> None:
    """Let loggers count optimizer steps as the trainer does; a restart can be one ahead."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step + ahead


def log_step(trainer: L.Trainer) -> None:
    """Give loggers the numbers of the step that ends, which they would get after its hooks."""
    trainer._logger_connector.update_train_step_metrics()


def is_between_steps(trainer: L.Trainer) -> bool:
    """Whether no gradients wait for further micro-batches."""
    return not trainer.fit_loop._should_accumulate()


def validation_is_due(trainer: L.Trainer) -> bool:
    """At the end of a training batch: whether Lightning will validate next."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def validate(trainer: L.Trainer) -> None:
    """Validate what the last step, which is done, made of the weights."""
    count_steps(trainer, -1)  # as it is at a step's end
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
    # Or an epoch of which only the end is missing would be left in a way that leaves the next one too.
    trainer.fit_loop.epoch_loop.val_loop._has_run = False
    count_steps(trainer)


def _set_all(counts: dict[str, Any], number: int) -> None:
    counts.update(dict.fromkeys(("ready", "started", "processed", "completed"), number))
