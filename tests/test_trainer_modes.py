"""Lightning's own switches, as `python train.py trainer.…` takes them: each does what its name says."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from test_train import lines_of, train
from torch.utils._python_dispatch import TorchDispatchMode

import captioning.run
from captioning import CaptionDataModule, CaptionModule
from captioning.errors import UserError
from captioning.models.loss import caption_loss


@pytest.fixture(autouse=True)
def _not_deterministic_after() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def run_here(cfg: object) -> dict[str, float]:
    return captioning.run.train(cfg)


def last_of(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def split_ids(folder: Path) -> dict[str, list[str]]:
    return json.loads((folder / "splits.json").read_text())


# ---------------------------------------------------------------- overfit_batches

BY_HEART = (
    "trainer.overfit_batches=1",
    "trainer.max_epochs=150",
    "trainer.check_val_every_n_epoch=50",
    "model.lr=0.005",
)


@pytest.fixture(scope="module")
def by_heart(images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("overfit")
    ran = train(*SMALL, *BY_HEART, f"data.path={images}", "logger=csv", "hydra.run.dir=run", folder=folder)
    assert ran.returncode == 0, ran.stderr[-3000:]
    (folder / "run" / "said.txt").write_text(ran.stderr)
    return folder / "run"


def test_one_batch_is_learned_by_heart(by_heart):
    assert last_of(by_heart)["global_step"] == 150  # a step an epoch
    with (by_heart / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses[-1] < 0.02 * losses[0]  # with dropout
    assert json.loads((by_heart / "metrics.json").read_text())["val/wer"] == 0.0


def test_the_captions_of_the_batch_are_exact(by_heart, images):
    captions = {line["file_name"]: line["text"] for line in lines_of(images / "metadata.jsonl")}
    shown = [line for line in lines_of(by_heart / "gallery.jsonl") if line["step"] == 150]
    assert len(shown) == 4
    for line in shown:
        truths = captions[line["id"]]
        assert line["prediction"] in (truths if isinstance(truths, list) else [truths])


def test_validation_is_of_the_images_that_are_trained_on_and_the_test_is_not(by_heart):
    splits = split_ids(by_heart)
    assert len(splits["val"]) == 4
    assert set(splits["val"]) <= set(splits["train"])
    assert not set(splits["test"]) & set(splits["train"])
    assert [line["id"] for line in lines_of(by_heart / "predictions.jsonl")] == splits["test"]


def test_what_is_overfitted_is_said_and_lightning_has_nothing_to_warn_of(by_heart):
    said = (by_heart / "said.txt").read_text()
    assert "trainer.overfit_batches=1: 4 images are trained and validated on" in said
    assert "shuffling" not in said


class Batches(captioning.run.L.Callback):
    """What was trained on: ids and captions, batch by batch."""

    def __init__(self) -> None:
        self.seen: list[tuple] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append((tuple(batch["id"]), batch["input_ids"].tolist(), batch["seed"]))


@pytest.mark.parametrize(("overfit_batches", "batches", "images_validated"), [(1, 1, 4), (3, 3, 12), (0.5, 3, 12)])
def test_every_epoch_has_the_same_batches_with_the_same_captions(
    images, checkpoint, tmp_path, overfit_batches, batches, images_validated
):
    seen = Batches()
    trainer = captioning.run.L.Trainer(
        accelerator="cpu", max_epochs=3, overfit_batches=overfit_batches, callbacks=[seen], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    data = CaptionDataModule(path=str(images), processor=str(checkpoint), batch_size=4, num_workers=0)
    data.setup()
    data.overfit(trainer)
    module = CaptionModule(checkpoint=str(checkpoint))
    trainer.fit(module, data)
    assert len(seen.seen) == 3 * batches
    assert seen.seen[:batches] == seen.seen[batches : 2 * batches] == seen.seen[2 * batches :]
    trained = {name for ids, _, _ in seen.seen for name in ids}
    validated = [prediction["id"] for prediction in module.evaluations["val"].predictions]
    assert len(validated) == images_validated
    assert set(validated) == trained


@pytest.mark.slow
def test_two_processes_overfit_the_batch_that_one_would(images, tmp_path):
    ids = []
    for devices, batch_size in ((1, 4), (2, 2)):
        own = [f"trainer.devices={devices}", f"data.batch_size={batch_size}", "trainer.overfit_batches=1"]
        ran = train(*SMALL, *own, f"data.path={images}", f"hydra.run.dir={devices}", folder=tmp_path)
        assert ran.returncode == 0, ran.stderr[-3000:]
        gallery = lines_of(tmp_path / str(devices) / "gallery.jsonl")
        ids.append([line["id"] for line in gallery])
        assert ids[-1] == split_ids(tmp_path / str(devices))["val"]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 4


def test_a_stream_cannot_be_overfitted(compose, images):
    trainer = captioning.run.L.Trainer(accelerator="cpu", overfit_batches=1, logger=False)
    data = CaptionDataModule(path=str(images))
    data.shards = ()  # all that tells a stream
    with pytest.raises(UserError, match=r"^trainer\.overfit_batches=1 and data\.streaming=true: "):
        data.overfit(trainer)


# ---------------------------------------------------------------- fast_dev_run


def test_fast_dev_run_goes_through_everything_with_a_batch_of_each_and_keeps_no_checkpoint(compose, images, tmp_path):
    run_here(compose(*SMALL, f"data.path={images}", "trainer.fast_dev_run=true", "data.batch_size=2", "logger=csv"))
    run = tmp_path / "run"
    assert len(lines_of(run / "predictions.jsonl")) == 2  # of three test images
    assert len(lines_of(run / "gallery.jsonl")) == 2
    assert not list(run.glob("checkpoints/*"))
    assert not (run / "metrics.csv").exists()
    assert (run / "report.html").exists()


# ---------------------------------------------------------------- deterministic


def test_deterministic_is_on_while_training_and_gives_the_same_weights_twice(compose, images, tmp_path, monkeypatch):
    modes, weights = [], []
    monkeypatch.setattr(
        CaptionModule, "on_train_end", lambda self: modes.append(torch.are_deterministic_algorithms_enabled())
    )
    for name in "ab":
        own = [f"data.path={images}", "trainer.deterministic=true", f"output_dir={tmp_path / name}"]
        run_here(compose(*SMALL, *own))
        weights.append(last_of(tmp_path / name)["state_dict"])
    assert modes == [True, True]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class Operations(TorchDispatchMode):
    """The names of what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("captions", ["first", "all"])
def test_a_step_has_nothing_that_deterministic_would_refuse_on_a_gpu(images, checkpoint, captions):
    """By the list in the documentation of ``torch.use_deterministic_algorithms``, as far as it is near to this."""
    data = CaptionDataModule(
        path=str(images), processor=str(checkpoint), batch_size=4, num_workers=0, captions=captions
    )
    data.setup()
    module = CaptionModule(checkpoint=str(checkpoint))
    module.load()
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    with Operations() as seen:
        caption_loss(module.network, **module._inputs(batch, "train")).loss.backward()
    assert seen.names >= {"nll_loss_forward", "nll_loss_backward", "embedding_dense_backward"}
    refused = {
        *("nll_loss2d_forward", "nll_loss2d_backward", "upsample_bicubic2d_backward", "upsample_bilinear2d_backward"),
        *("_embedding_bag_backward", "grid_sampler_2d_backward", "adaptive_avg_pool2d_backward", "put_", "histc"),
        *("bincount", "kthvalue", "median", "max_pool2d_with_indices_backward", "_ctc_loss_backward"),
    }
    assert not seen.names & refused


# ---------------------------------------------------------------- how long


@pytest.mark.parametrize("nothing", ["trainer.max_epochs=0", "trainer.max_steps=0", "trainer.limit_train_batches=0"])
def test_a_run_that_trains_nothing_tests_the_weights_as_they_are(compose, images, checkpoint, tmp_path, nothing):
    own = ["model=git-base", f"model.checkpoint={checkpoint}", "model.max_new_tokens=8", f"data.path={images}"]
    metrics = run_here(compose(*SMALL, *own, nothing))
    from safetensors.torch import load_file

    before, after = (load_file(path / "model.safetensors") for path in (checkpoint, tmp_path / "run" / "model"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "test/wer" in metrics
    assert "tested_step" not in metrics


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["trainer.max_steps=2"], 2),
        (["trainer.max_steps=8", "trainer.max_epochs=-1"], 8),
        (["trainer.max_steps=8"], 6),  # an epoch comes first
        (["trainer.limit_train_batches=4"], 4),
        (["trainer.limit_train_batches=0.5"], 3),
        (["trainer.limit_train_batches=4", "trainer.accumulate_grad_batches=3"], 2),
        (["trainer.max_steps=3", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=-1"], 3),
    ],
)
def test_a_run_takes_so_many_optimizer_steps_and_its_schedule_ends_with_them(
    compose, images, tmp_path, overrides, steps
):
    run_here(compose(*SMALL, f"data.path={images}", *overrides, "logger=csv", "model.lr_schedule=linear"))
    last = last_of(tmp_path / "run")
    assert last["global_step"] == steps
    assert last["lr_schedulers"][0]["_last_lr"] == [0.0, 0.0]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert len([row for row in csv.DictReader(file) if row["train/loss"]]) == steps


def test_early_stopping_says_when_and_why_and_the_best_is_tested(compose, images, said):
    stop = ["callbacks=early-stopping", "callbacks.early_stopping.patience=2", "trainer.max_epochs=20"]
    ruin = ["model.lr=0.5", "model.warmup_fraction=0.0", "model.lr_schedule=constant", "monitor=val/loss"]
    metrics = run_here(compose(*SMALL, f"data.path={images}", *stop, *ruin))
    steps = int(said.text.split("stopped early at step ")[1].split(":")[0])
    assert steps < 20 * 6
    assert steps == metrics["tested_step"] + 2 * 6  # two validations, each after an epoch, without a better one
