"""find_lr=true and find_batch_size=true: what is found is trained with and written down, and nothing else changes."""

import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from conftest import ROOT, SMALL
from test_train import train
from torch.optim.optimizer import register_optimizer_step_post_hook

import captioning.run
from captioning import CaptionModule
from captioning.errors import UserError
from captioning.training import tuning as finders
from captioning.training.callbacks.graceful_shutdown import GracefulShutdown
from captioning.training.checkpoints import CheckpointWriter
from captioning.training.signals import Interrupted, SignalHandler

ONE_EPOCH = ("trainer.accumulate_grad_batches=2", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def searched(images, tmp_path_factory) -> Path:
    """A run that searched a learning rate, with wandb offline and windows of two micro-batches."""
    folder = tmp_path_factory.mktemp("searched")
    own = ["find_lr=true", "logger=wandb", "hydra.run.dir=run", *ONE_EPOCH]
    ran = train(*SMALL, *own, f"data.path={images}", folder=folder)
    assert ran.returncode == 0, ran.stderr[-3000:]
    (folder / "said.txt").write_text(ran.stderr)
    return folder / "run"


def found_in(run: Path) -> float:
    return json.loads((run / "find_lr.json").read_text())["suggested"]


def test_what_is_found_is_said_and_written_down(searched):
    found = found_in(searched)
    assert (
        f"find_lr: model.lr={found:g}, see find_lr.png in the run folder" in (searched.parent / "said.txt").read_text()
    )
    for name in (".hydra/config.yaml", "hparams.yaml"):
        assert yaml.safe_load((searched / name).read_text())["model"]["lr"] == found
    checkpoint = torch.load(searched / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["lr"] == found


def test_training_is_with_what_is_found_and_its_curves_know_nothing_of_the_search(searched):
    with (searched / "metrics.csv").open() as file:
        rates = [float(row["train/lr"]) for row in csv.DictReader(file) if row["train/lr"]]
    assert len(rates) == 3  # 23 images, by 4 and by two
    assert max(rates) == pytest.approx(found_in(searched))


def test_the_curve_is_left_in_numbers_and_as_a_image(searched):
    curve = json.loads((searched / "find_lr.json").read_text())
    assert curve["rates"][0] == finders.LOWEST
    assert len(curve["rates"]) == len(curve["losses"]) == len(curve["smoothed"]) > 50
    assert curve["losses"][0] == pytest.approx(math.log(50), rel=0.5)  # of a few dozen words, knowing nothing
    assert curve["suggested"] == finders.suggestion(
        curve["rates"], curve["smoothed"], finders.noise_of(curve["losses"], curve["smoothed"])
    )
    assert (searched / "find_lr.png").read_bytes().startswith(b"\x89PNG")


def test_a_search_leaves_no_file_of_its_own_and_no_run_of_the_tracker(searched):
    assert {path.name for path in searched.parent.iterdir()} == {"run", "said.txt"}
    assert not [path for path in searched.rglob("*") if "lr_find" in path.name or "scale_batch" in path.name]
    assert len(list((searched / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.slow
def test_after_both_searches_a_run_is_to_the_last_digit_that_with_the_values_given(compose, images, tmp_path):
    weights = []
    own = [f"data.path={images}", "trainer.max_epochs=2"]
    for name in ("searched", "given"):
        folder = tmp_path / name
        if name == "searched":
            settings = ["find_lr=true", "find_batch_size=true"]
        else:
            found = yaml.safe_load((tmp_path / "searched" / ".hydra" / "config.yaml").read_text())
            settings = [f"model.lr={found['model']['lr']}", f"data.batch_size={found['data']['batch_size']}"]
        captioning.run.train(compose(*SMALL, *own, *settings, f"output_dir={folder}"))
        checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        weights.append((checkpoint["state_dict"], checkpoint["optimizer_states"][0]["state"][0]["exp_avg"]))
    assert all(torch.equal(weights[0][0][name], weights[1][0][name]) for name in weights[0][0])
    assert torch.equal(weights[0][1], weights[1][1])


def test_random_numbers_go_on_as_if_nothing_had_been_searched(compose, images, monkeypatch):
    states = []
    find = captioning.run.tune

    def watched(*args: object) -> object:
        states.append((torch.get_rng_state().tolist(), random.getstate()))
        found = find(*args)
        states.append((torch.get_rng_state().tolist(), random.getstate()))
        return found

    monkeypatch.setattr(captioning.run, "tune", watched)
    captioning.run.train(compose(*SMALL, f"data.path={images}", "find_lr=true", "trainer.max_epochs=0"))
    assert states[0] == states[1]


@pytest.mark.slow
@pytest.mark.parametrize("resume", ["resume=run", "resume=auto"])
def test_a_run_that_goes_on_keeps_what_was_found_and_does_not_search_again(images, tmp_path, resume):
    command = [*SMALL, "find_lr=true", f"data.path={images}", "hydra.run.dir=run"]
    first = train(*command, folder=tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    found = found_in(tmp_path / "run")
    more = ["trainer.max_epochs=2", resume]
    second = train(*(more if resume == "resume=run" else [*command, *more]), folder=tmp_path)
    assert second.returncode == 0, second.stderr[-3000:]
    assert "find_lr" not in second.stderr
    assert "model.lr" not in second.stderr  # which isn't a change
    assert yaml.safe_load((tmp_path / "run" / ".hydra" / "config.yaml").read_text())["model"]["lr"] == found


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["find_lr=true", "trainer.devices=2"],
            r"^find_lr=true: one process searches, and there are 2; .*as model\.lr$",
        ),
        (
            ["find_lr=true", "find_batch_size=true", "trainer.devices=2"],
            r"^find_batch_size=true: one process searches, and there are 2; .*as data\.batch_size and model\.lr$",
        ),
        (["find_lr=true", "trainer.fast_dev_run=1"], r"^find_lr=true and trainer\.fast_dev_run: "),
    ],
)
def test_a_search_that_cannot_be_made_is_refused_by_name(compose, images, tmp_path, overrides, line):
    with pytest.raises(UserError, match=line):
        captioning.run.train(compose(*SMALL, f"data.path={images}", *overrides))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_that_is_told_to_stop_while_it_searches_says_that_it_can_be_started_again(images, tmp_path):
    large = ["model.architecture.vision_config.num_hidden_layers=24", "model.architecture.vision_config.patch_size=2"]
    command = [sys.executable, str(ROOT / "train.py"), *SMALL, *large, "find_lr=true", f"data.path={images}"]
    with subprocess.Popen(
        [*command, "hydra.run.dir=run"], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("find_lr: 100 steps"):
                time.sleep(1)  # or it would be in the middle of saying so
                os.kill(process.pid, signal.SIGTERM)
                break
        rest = process.stderr.read()
        assert process.wait(60) == 75
    assert "stopped by SIGTERM" in rest
    assert "Traceback" not in rest


def test_a_signal_that_came_in_the_middle_of_a_message_ends_a_search_too():
    interruption = SignalHandler()
    interruption.received = "SIGTERM"  # the exception was raised, and logging took it for a mistake of its own
    stop = GracefulShutdown(interruption, CheckpointWriter())
    trainer = L.Trainer(accelerator="cpu", callbacks=[stop], logger=False, enable_checkpointing=False)
    with pytest.raises(Interrupted, match="SIGTERM"):
        finders._Listen(trainer).on_train_batch_start(trainer, CaptionModule(), None, 0)


# ---------------------------------------------------------------- the learning rate


class Steps:
    """The learning rate of every step of any optimizer."""

    def __init__(self) -> None:
        self.rates: list[set[float]] = []

    def __call__(self, optimizer, args, kwargs) -> None:
        self.rates.append({group["lr"] for group in optimizer.param_groups})


def test_each_step_is_taken_with_the_next_rate_whatever_the_schedule_says(compose, images, tmp_path):
    seen = Steps()
    handle = register_optimizer_step_post_hook(seen)
    try:
        own = ["find_lr=true", "trainer.max_epochs=0", "model.lr_schedule=cosine", "model.warmup_fraction=0.5"]
        captioning.run.train(compose(*SMALL, f"data.path={images}", *own, *ONE_EPOCH[:1]))
    finally:
        handle.remove()
    curve = json.loads((tmp_path / "run" / "find_lr.json").read_text())
    taken = [next(iter(rates)) for rates in seen.rates]
    assert all(len(rates) == 1 for rates in seen.rates)
    assert taken[: len(curve["rates"])] == curve["rates"]
    factors = [later / earlier for earlier, later in zip(curve["rates"], curve["rates"][1:], strict=False)]
    assert factors == pytest.approx([1e7 ** (1 / 99)] * len(factors))


RATES = [1e-7 * 1e7 ** (step / 99) for step in range(100)]


def falling_at(rate: float, *, noise: float) -> list[float]:
    """Losses from 5 to 1 that fall most steeply at a rate, and rise again two decades above it."""
    draw = random.Random(1)
    fall = [5 - 4 / (1 + (rate / at) ** 2) for at in RATES]
    rise = [(at / rate / 100) ** 2 for at in RATES]
    return [a + b + draw.gauss(0, noise) for a, b in zip(fall, rise, strict=True)]


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("rate", [1e-5, 1e-3])
def test_the_suggestion_is_where_the_loss_falls_most_steeply(rate, noise):
    losses = falling_at(rate, noise=noise)
    curve = finders.curve_of(RATES, [losses[0], *losses])  # the first before any step
    assert curve.losses == losses
    assert curve.suggested is not None
    assert abs(math.log10(curve.suggested / rate)) < (0.1 if noise == 0 else 0.4)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_where_the_loss_never_falls_nothing_is_suggested(noise):
    draw = random.Random(2)
    losses = [3 + (rate / 0.1) ** 2 + draw.gauss(0, noise) for rate in RATES]
    assert finders.curve_of(RATES, [3.0, *losses]).suggested is None


def test_a_curve_of_a_few_steps_suggests_nothing():
    assert finders.curve_of(RATES, [5.0, 4.0, 3.0, 2.0]).suggested is None


def test_smoothing_lags_on_neither_side():
    assert finders.smooth([1.0, 2.0, 3.0, 4.0, 5.0]) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert finders.smooth([0.0, 0.0, 9.0, 0.0, 0.0]) == [0.0, 3.0, 1.8, 3.0, 0.0]


def test_a_run_in_which_no_rate_helps_keeps_its_own_and_says_so(compose, images, said, monkeypatch):
    monkeypatch.setattr(finders, "HIGHEST", 1.1e-7)  # none of these does anything
    own = ["find_lr=true", "trainer.max_epochs=0", "model.lr=0.003"]
    captioning.run.train(compose(*SMALL, f"data.path={images}", *own))
    assert "find_lr: the loss fell at no learning rate; model.lr=0.003 is kept" in said.text


# ---------------------------------------------------------------- the batch size

# Some 15 MB an image, of which the limits leave room for a few.
LARGE = (
    *("model.architecture.vision_config.hidden_size=128", "model.architecture.vision_config.num_hidden_layers=12"),
    *("model.architecture.vision_config.image_size=64", "model.architecture.vision_config.patch_size=4"),
)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="its limits on memory are Linux's")


def search_batch_size(*overrides: str, available: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """``python train.py find_batch_size=true`` that is told how much memory is available; that no more is had is real.

    In a process of its own, because this one has memory that was freed and may be used again.
    """
    code = f"""
import runpy, sys
from captioning.training import tuning as finders
real = finders.read_proc_status
finders.read_proc_status = lambda file, name: {available} if name == "MemAvailable" else real(file, name)
sys.argv = [{str(ROOT / "train.py")!r}, *sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    own = ["find_batch_size=true", "trainer.max_epochs=0", "hydra.run.dir=run"]
    command = [sys.executable, "-c", code, *SMALL, *overrides, *own]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@linux
def test_the_batch_size_is_the_largest_power_of_two_that_fits(images, tmp_path):
    ran = search_batch_size(*LARGE, f"data.path={images}", available=100_000_000, folder=tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    size = yaml.safe_load((tmp_path / "run" / ".hydra" / "config.yaml").read_text())["data"]["batch_size"]
    assert size in (1, 2, 4, 8)  # of 23 images
    assert f"find_batch_size: data.batch_size={size}, and no more fits" in ran.stderr


@linux
def test_where_not_even_one_image_fits_the_way_out_is_named(images, tmp_path):
    ran = search_batch_size(*LARGE, f"data.path={images}", available=20_000_000, folder=tmp_path)
    assert ran.returncode == 1
    (said,) = [line for line in ran.stderr.splitlines() if line.startswith("error")]
    assert said.startswith("error: find_batch_size=true: not even one image")
    assert "model.gradient_checkpointing=true" in said


@linux
def test_the_limit_on_memory_is_taken_back(compose, images):
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    own = ["find_batch_size=true", "trainer.max_epochs=0"]
    captioning.run.train(compose(*SMALL, f"data.path={images}", *own))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_where_all_fit_there_are_no_more_than_images(compose, images, tmp_path, said):
    own = ["find_batch_size=true", "trainer.max_epochs=0"]
    captioning.run.train(compose(*SMALL, f"data.path={images}", *own))
    assert "find_batch_size: data.batch_size=16, and there are no more than 23 images" in said.text
