"""A run that is stopped, by whatever and wherever, ends as one that never was: the same to the last bit."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL
from runs import run, said

from captioning.training.signals import INTERRUPTED

STEPS = 24
# 23 images to train on, in batches of four: epochs of six steps, the last of which isn't full.
RUN = (
    *(setting for setting in SMALL if not setting.startswith(("trainer.devices", "logger"))),
    *("logger=csv", "trainer.max_epochs=4", "callbacks.last.every_n_steps=1", "trainer.enable_progress_bar=false"),
)
SPEED = ("images_per_second", "seconds_per_step", "data_wait_share", "memory_gb")
MEASURED = tuple(f"train/{name}" for name in SPEED)


def killed(signal_name: str, step: int, where: str = "on_train_batch_end") -> list[str]:
    """The settings of a run that is sent a signal."""
    node = "++callbacks.kill"  # it may have been there before
    return [
        f"{node}._target_=runs.Kill",
        f"{node}.signal_name={signal_name}",
        f"{node}.step={step}",
        f"{node}.where={where}",
    ]


def interrupted(*overrides: str, kills: Sequence[tuple[str, int, str]], folder: Path, processes: int = 1) -> None:
    """A run that is killed again and again, gone on with each time, and let end at last."""
    begin = list(overrides)
    for kill in kills:
        statuses = run(*begin, *killed(*kill), folder=folder, processes=processes)
        expected = -9 if kill[0] == "SIGKILL" else INTERRUPTED
        assert statuses == [expected] * processes, said(folder)[-3000:]
        begin = [f"resume={folder}"]
    statuses = run(*begin, "callbacks.kill=null", folder=folder, processes=processes)
    assert statuses == [0] * processes, said(folder)[-3000:]


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, whatever is in them."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def checkpoint_of(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def numbers_of(folder: Path) -> dict[str, Any]:
    """All final numbers but those that tell of time."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name not in MEASURED}


def curves_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in MEASURED} for row in csv.DictReader(file)]


def assert_same_run(one: Path, other: Path) -> None:
    first, second = checkpoint_of(one), checkpoint_of(other)
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "CaptionDataModule")
    parts += ("current_model_state",) if "current_model_state" in first else ()
    assert [part for part in parts if not same(first[part], second[part])] == []
    assert numbers_of(one) == numbers_of(other)
    assert curves_of(one) == curves_of(other)
    for name in ("predictions.jsonl", "gallery.jsonl"):
        assert (one / name).exists() == (other / name).exists()
        assert not (one / name).exists() or (one / name).read_bytes() == (other / name).read_bytes()
    kept = [sorted(path.name for path in (folder / "checkpoints").iterdir()) for folder in (one, other)]
    assert kept[0] == kept[1]


@pytest.fixture(scope="module")
def settings(images) -> list[str]:
    return [*RUN, f"data.path={images}"]


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> Path:
    """The run that nobody stops."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(*settings, folder=folder) == [0], said(folder)[-3000:]
    assert checkpoint_of(folder)["global_step"] == STEPS
    return folder


# A killed run goes on from the step before, and one that is told to stop from the one that it is in.
KILLED, TOLD = ("SIGKILL", "on_train_batch_end", 1), ("SIGTERM", "on_train_batch_start", 0)


@pytest.mark.parametrize(
    ("every", "signal_name", "where", "first"),
    [
        (4, *KILLED),
        (4, *TOLD),
        pytest.param(1, *KILLED, marks=pytest.mark.slow),
        pytest.param(1, *TOLD, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_stopped_every_so_many_steps_ends_as_one_that_never_was(
    settings, whole, tmp_path, every, signal_name, where, first
):
    kills = [(signal_name, step, where) for step in range(first, first + STEPS, every)]
    interrupted(*settings, kills=kills, folder=tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")


WITHIN = [
    ("SIGINT", 0, "on_before_optimizer_step"),
    ("SIGUSR1", 6, "on_validation_batch_start"),
    ("SIGUSR2", 12, "on_validation_epoch_end"),
    ("SIGTERM", 18, "on_validation_start"),
    ("SIGKILL", 21, "on_save_checkpoint"),
    ("SIGTERM", 24, "on_validation_batch_end"),
    ("SIGKILL", 24, "on_test_batch_start"),
    ("SIGTERM", 24, "on_test_batch_start"),
]


def test_it_may_be_stopped_within_a_step_a_validation_a_checkpoint_and_the_test(settings, whole, tmp_path):
    interrupted(*settings, kills=WITHIN, folder=tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")


MATRIX = {
    "two workers": ["data.num_workers=2"],
    "gradients accumulated": ["data.batch_size=2", "trainer.accumulate_grad_batches=2"],
    "augmentation": [
        "data.augment_crop=0.3",
        "data.augment_color_jitter=0.3",
        "data.augment_flip=0.5",
        "data.cache=false",
    ],
    "all captions": ["data.captions=all", "data.num_workers=2"],
    "average of weights": ["callbacks=ema"],
    "validation by steps": ["val_every_n_steps=5", "data.batch_size=2", "trainer.accumulate_grad_batches=2"],
    "end by steps": ["trainer.max_steps=21", "trainer.max_epochs=-1"],
    "no validation": ["trainer.limit_val_batches=0"],
    "not every epoch validated": ["trainer.check_val_every_n_epoch=2"],
    "sampled captions": ["model.temperature=0.7"],
    "a frozen vision tower": ["model.freeze_vision=true"],
    "compiled layers": ["model.compile=true"],
    "adapters": ["model.lora_rank=4", "model.lora_dropout=0.1"],
}


IN_SHORT = ("gradients accumulated",)  # the others take minutes


@pytest.mark.parametrize(
    "own",
    [pytest.param(own, id=name, marks=[] if name in IN_SHORT else pytest.mark.slow) for name, own in MATRIX.items()],
)
def test_so_it_does_whatever_the_settings(settings, tmp_path, own):
    kills = [("SIGKILL", 3, "on_train_batch_start"), ("SIGTERM", 10, "on_train_batch_start")]
    kills += [("SIGTERM", 18, "on_train_batch_end")]
    assert run(*settings, *own, folder=tmp_path / "whole") == [0], said(tmp_path / "whole")[-3000:]
    interrupted(*settings, *own, kills=kills, folder=tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


TOGETHER = {
    "plain": ["data.batch_size=2"],
    "all of it": [
        *("data.batch_size=1", "trainer.accumulate_grad_batches=2", "data.num_workers=2", "callbacks=ema"),
        *("val_every_n_steps=5", "data.augment_color_jitter=0.3"),
    ],
}


@pytest.mark.parametrize(
    "own", [TOGETHER["plain"], pytest.param(TOGETHER["all of it"], marks=pytest.mark.slow)], ids=TOGETHER
)
def test_so_do_two_processes_together(settings, tmp_path, own):
    kills = [("SIGKILL", 3, "on_train_batch_start"), ("SIGTERM", 10, "on_train_batch_start")]
    kills += [("SIGTERM", 15, "on_train_batch_end")]
    assert run(*settings, *own, folder=tmp_path / "whole", processes=2) == [0, 0], said(tmp_path / "whole")[-3000:]
    interrupted(*settings, *own, kills=kills, folder=tmp_path / "run", processes=2)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
