"""find_lr=true and find_batch_size=true: what is found is trained with and written down, and nothing else changes."""

import csv
import json
import math
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import runs
import torch
import yaml
from conftest import SMALL, compose_config
from started import wait_for
from torch.optim.optimizer import register_optimizer_step_post_hook

import captioning.run
from captioning import CaptionDataModule
from captioning.errors import UserError
from captioning.training import tuning


@pytest.fixture(scope="module")
def search(images, tmp_path_factory) -> Iterator[dict]:
    """What a run with find_lr=true did, with windows of two micro-batches."""
    run = tmp_path_factory.mktemp("searched") / "run"
    observed = {"run": run, "rates": [], "random": []}
    find = captioning.run.tune

    def watched(*args: object) -> object:
        observed["random"].append((torch.get_rng_state().tolist(), random.getstate()))
        found = find(*args)
        observed["random"].append((torch.get_rng_state().tolist(), random.getstate()))
        observed["search"] = [*observed["rates"]]
        return found

    own = ["find_lr=true", "logger=csv", "model.lr_schedule=cosine"]
    own += ["model.warmup_fraction=0.5", "trainer.accumulate_grad_batches=2"]
    handle = register_optimizer_step_post_hook(
        lambda optimizer, *_: observed["rates"].append({group["lr"] for group in optimizer.param_groups})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captioning.run, "tune", watched)
        captioning.run.train(compose_config(*SMALL, *own, f"data.path={images}", f"output_dir={run}"))
    handle.remove()
    return observed


def suggested_in(run: Path) -> float:
    return json.loads((run / "find_lr.json").read_text())["suggested"]


def test_what_is_found_is_written_down(search):
    found = suggested_in(search["run"])
    for name in (".hydra/config.yaml", "hparams.yaml"):
        assert yaml.safe_load((search["run"] / name).read_text())["model"]["lr"] == found
    checkpoint = torch.load(search["run"] / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["lr"] == found


def test_training_is_with_what_is_found_and_its_curves_know_nothing_of_the_search(search):
    with (search["run"] / "metrics.csv").open() as file:
        rates = [float(row["train/lr"]) for row in csv.DictReader(file) if row["train/lr"]]
    assert len(rates) == 3  # 23 images, by 4 and by two
    assert max(rates) == pytest.approx(suggested_in(search["run"]))


def test_the_curve_is_left_in_numbers_and_as_an_image(search):
    curve = json.loads((search["run"] / "find_lr.json").read_text())
    assert curve["rates"][0] == 1e-7
    assert len(curve["rates"]) == len(curve["losses"]) == len(curve["smoothed"]) > 50
    assert curve["losses"][0] == pytest.approx(math.log(50), rel=0.5)  # of a few dozen words, knowing nothing
    assert curve["suggested"] == tuning.suggest_lr(curve["smoothed"])
    assert (search["run"] / "find_lr.png").read_bytes().startswith(b"\x89PNG")


def test_a_search_leaves_no_file_of_its_own(search):
    assert [path.name for path in search["run"].parent.iterdir()] == ["run"]
    assert not [path for path in search["run"].rglob("*") if "lr_find" in path.name or "scale_batch" in path.name]


def test_random_numbers_are_as_if_nothing_had_been_searched(search):
    before, after = search["random"]
    assert before == after


def test_each_step_is_taken_with_the_next_rate_whatever_the_schedule_says(search):
    curve = json.loads((search["run"] / "find_lr.json").read_text())
    taken = [next(iter(rates)) for rates in search["search"]]
    assert all(len(rates) == 1 for rates in search["search"])
    assert taken[: len(curve["rates"])] == curve["rates"]
    factors = [later / earlier for earlier, later in zip(curve["rates"], curve["rates"][1:], strict=False)]
    assert factors == pytest.approx([1e7 ** (1 / 99)] * len(factors))


@pytest.mark.slow
def test_after_a_search_a_run_is_to_the_last_digit_that_with_the_value_given(compose, images, tmp_path):
    weights = []
    own = [f"data.path={images}", "trainer.max_epochs=2"]
    for name in ("searched", "given"):
        folder = tmp_path / name
        setting = "find_lr=true" if name == "searched" else f"model.lr={suggested_in(tmp_path / 'searched')}"
        captioning.run.train(compose(*SMALL, *own, setting, f"output_dir={folder}"))
        checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        weights.append((checkpoint["state_dict"], checkpoint["optimizer_states"][0]["state"][0]["exp_avg"]))
    assert all(torch.equal(weights[0][0][name], weights[1][0][name]) for name in weights[0][0])
    assert torch.equal(weights[0][1], weights[1][1])


@pytest.mark.slow
@pytest.mark.parametrize("resume", ["resume=run", "resume=auto"])
def test_a_run_that_goes_on_keeps_what_was_found_and_does_not_search_again(images, tmp_path, resume):
    command = [*SMALL, "find_lr=true", f"data.path={images}", "hydra.run.dir=run"]
    first = runs.train(*command, folder=tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    found = suggested_in(tmp_path / "run")
    more = ["trainer.max_epochs=2", resume]
    second = runs.train(*(more if resume == "resume=run" else [*command, *more]), folder=tmp_path)
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
        (
            ["find_batch_size=true"],
            r"^find_batch_size=true: on a CPU data\.batch_size hardly changes the speed; set it$",
        ),
    ],
)
def test_a_search_that_cannot_be_made_is_refused_by_name(compose, images, tmp_path, overrides, line):
    with pytest.raises(UserError, match=line):
        captioning.run.train(compose(*SMALL, f"data.path={images}", *overrides))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_that_is_told_to_stop_while_it_searches_says_that_it_can_be_started_again(images, tmp_path):
    large = ["model.architecture.vision_config.num_hidden_layers=24", "model.architecture.vision_config.patch_size=4"]
    folder = tmp_path / "run"
    [process] = runs.start(*SMALL, *large, "find_lr=true", f"data.path={images}", folder=folder)
    wait_for(lambda: "find_lr: 100 steps" in runs.said(folder))
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 75
    assert "stopped by SIGTERM" in runs.said(folder)
    assert "Traceback" not in runs.said(folder)


def falling_at(rate: float, *, noise: float) -> list[float]:
    """Losses from 5 to 1 that fall most steeply at a rate, and rise again two decades above it."""
    draw = random.Random(1)
    fall = [5 - 4 / (1 + (rate / at) ** 2) for at in tuning.RATES]
    rise = [(at / rate / 100) ** 2 for at in tuning.RATES]
    return [a + b + draw.gauss(0, noise) for a, b in zip(fall, rise, strict=True)]


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("rate", [1e-5, 1e-3])
def test_the_suggestion_is_where_the_loss_falls_most_steeply(rate, noise):
    suggested = tuning.suggest_lr(tuning.smooth(falling_at(rate, noise=noise)))
    assert suggested is not None
    assert abs(math.log10(suggested / rate)) < (0.1 if noise == 0 else 0.4)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_where_the_loss_never_falls_nothing_is_suggested(noise):
    draw = random.Random(2)
    losses = [3 + (rate / 0.1) ** 2 + draw.gauss(0, noise) for rate in tuning.RATES]
    assert tuning.suggest_lr(tuning.smooth(losses)) is None


@pytest.mark.parametrize("losses", [[], [4.0, 3.0, 2.0]])
def test_a_curve_of_a_few_steps_suggests_nothing(losses):
    assert tuning.suggest_lr(tuning.smooth(losses)) is None


def test_smoothing_lags_on_neither_side():
    assert tuning.smooth([1.0, 2.0, 3.0, 4.0, 5.0]) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert tuning.smooth([0.0, 0.0, 9.0, 0.0, 0.0]) == [0.0, 3.0, 1.8, 3.0, 0.0]


def test_a_run_in_which_no_rate_helps_keeps_its_own_and_says_so(compose, images, said, monkeypatch):
    monkeypatch.setattr(tuning, "RATES", [1e-7] * 20)
    own = ["find_lr=true", "trainer.max_epochs=0", "model.lr=0.003"]
    captioning.run.train(compose(*SMALL, f"data.path={images}", *own))
    assert "find_lr: model.lr=0.003, which is kept: the loss fell at no rate" in said.text


@pytest.fixture(scope="module")
def data(images, checkpoint) -> CaptionDataModule:
    """With 23 training images."""
    data = CaptionDataModule(source="local", path=str(images), processor=str(checkpoint), batch_size=3)
    data.setup()
    return data


def training_with_memory_for(images: int, data: CaptionDataModule) -> Callable[..., None]:
    """Stands in for the training of a few steps."""

    def fit(*_: object, **settings: object) -> None:
        if data.hparams["batch_size"] > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    return fit


@pytest.mark.parametrize(("fits", "found"), [(2, 1), (8, 4), (9, 8), (1000, 16)])
def test_the_batch_size_is_the_largest_power_of_two_that_fits_with_an_eighth_to_spare(data, fits, found):
    assert tuning.find_batch_size(training_with_memory_for(fits, data), data) == found
    assert data.hparams["batch_size"] == 3


def test_where_not_even_one_image_fits_the_way_out_is_named(data):
    with pytest.raises(UserError, match=r"not even 2 images.*model\.gradient_checkpointing=true"):
        tuning.find_batch_size(training_with_memory_for(1, data), data)
