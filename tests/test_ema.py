"""callbacks=ema: the average of the weights is validated, kept, tested and exported, and the raw ones trained on."""

import json
import re
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import SMALL
from hydra.errors import InstantiationException
from runs import run, said, train
from safetensors.torch import load_file
from torch import Tensor

import captioning.run
from captioning import CaptionDataModule, CaptionModule
from captioning.config.messages import explain
from captioning.errors import UserError
from captioning.training.callbacks.weight_averaging import ExponentialMovingAverage

NAME = "model.git.embeddings.word_embeddings.weight"


def data_of(images: Path, checkpoint: Path) -> CaptionDataModule:
    return CaptionDataModule(path=str(images), processor=str(checkpoint), batch_size=4, num_workers=0)


def module_of(checkpoint: Path) -> CaptionModule:
    """Without dropout, so that two trainings can be compared; the learning rate is high enough to see a difference."""
    module = CaptionModule(checkpoint=str(checkpoint), lr=1e-2, lr_schedule="constant", warmup_fraction=0.0)
    module.load()
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    return module


def trainer_of(folder: Path, *callbacks: L.Callback, **settings: object) -> L.Trainer:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    small = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False, "default_root_dir": folder}
    return L.Trainer(**{**small, **quiet, **settings}, callbacks=list(callbacks))


def weights_of(module: L.LightningModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class RawWeights(L.Callback):
    """The raw weights after each optimizer step."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step > len(self.steps):
            self.steps.append(weights_of(pl_module)[NAME].double())


@pytest.mark.parametrize("accumulated", [1, 4])
def test_the_average_is_the_definitions_over_optimizer_steps(images, checkpoint, tmp_path, accumulated):
    raw, module = RawWeights(), module_of(checkpoint)
    trainer = trainer_of(
        tmp_path, ExponentialMovingAverage(decay=0.3), raw, max_epochs=2, accumulate_grad_batches=accumulated
    )
    trainer.fit(module, data_of(images, checkpoint))
    assert len(raw.steps) == (12 if accumulated == 1 else 4)  # 23 images by 4, twice; windows of 4 and 2 batches
    expected = raw.steps[0]
    for updates, step in enumerate(raw.steps[1:], start=1):
        kept = min(0.3, updates / (updates + 9))
        expected = kept * expected + (1 - kept) * step
    torch.testing.assert_close(weights_of(module)[NAME].double(), expected, rtol=1e-5, atol=1e-6)


def test_training_takes_the_same_steps_with_an_average_as_without(images, checkpoint, tmp_path):
    steps = []
    for average in ([], [ExponentialMovingAverage(decay=0.9)]):
        raw = RawWeights()
        trainer = trainer_of(tmp_path, *average, raw, max_epochs=2)  # with validations, from which it comes back
        trainer.fit(module_of(checkpoint), data_of(images, checkpoint))
        steps.append(raw.steps)
    assert len(steps[0]) == 12
    assert all(torch.equal(one, other) for one, other in zip(*steps, strict=True))


@pytest.fixture(scope="module")
def ema_run(images, tmp_path_factory) -> Path:
    """A run folder of the command line, whose raw weights and average are far apart."""
    folder = tmp_path_factory.mktemp("ema")
    own = ["callbacks=ema", "callbacks.ema.decay=0.9", "trainer.max_epochs=3", "model.lr=0.01"]
    command = [*SMALL, *own, f"data.path={images}", "monitor=val/loss", "hydra.run.dir=run"]
    ran = train(*command, folder=folder)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder / "run"


def best_of(run: Path) -> Path:
    (best,) = (run / "checkpoints").glob("step*.ckpt")
    return best


def test_the_model_folder_is_the_average_and_not_the_raw_weights(ema_run):
    checkpoint = torch.load(best_of(ema_run), weights_only=True)
    exported = load_file(ema_run / "model" / "model.safetensors")[NAME.removeprefix("model.")]
    assert torch.equal(exported, checkpoint["state_dict"][NAME])
    assert not torch.equal(exported, checkpoint["current_model_state"][NAME])


def losses_of(run: Path, images: Path, weights: str) -> dict[str, float]:
    """Validation and test loss of one of the two sets of weights in the best checkpoint."""
    path = best_of(run)
    module = CaptionModule.load_from_checkpoint(path)
    module.load_state_dict(torch.load(path, weights_only=True)[weights])
    data = CaptionDataModule(path=str(images), processor=str(run / "model"), batch_size=4, num_workers=0)
    trainer = trainer_of(run.parent)
    trainer.validate(module, data, verbose=False)
    trainer.test(module, data, verbose=False)
    return {f"{phase}/loss": module.evaluations[phase].numbers["loss"] for phase in ("val", "test")}


def test_validation_and_test_are_of_the_average(ema_run, images):
    metrics = json.loads((ema_run / "metrics.json").read_text())
    average, raw = (losses_of(ema_run, images, weights) for weights in ("state_dict", "current_model_state"))
    for name in ("val/loss", "test/loss"):
        assert metrics[name] == pytest.approx(average[name], rel=1e-5)
        assert metrics[name] != pytest.approx(raw[name], rel=1e-2)


def test_a_checkpoint_loads_as_any_other_with_the_average(ema_run):
    module = CaptionModule.load_from_checkpoint(best_of(ema_run))
    assert are_equal(weights_of(module), torch.load(best_of(ema_run), weights_only=True)["state_dict"])


def test_a_training_that_goes_on_from_a_checkpoint_has_both_sets_of_weights(images, checkpoint, tmp_path):
    """Two epochs at once, and two in turn: bitwise the same, in what is trained and in its average."""
    finals = []
    for broken in (False, True):
        ckpt_path = None
        for epochs in (1, 2) if broken else (2,):
            trainer = trainer_of(tmp_path, ExponentialMovingAverage(decay=0.9), max_epochs=epochs)
            trainer.fit(module_of(checkpoint), data_of(images, checkpoint), ckpt_path=ckpt_path)
            ckpt_path = tmp_path / f"{broken}-{epochs}.ckpt"
            trainer.save_checkpoint(ckpt_path)
        finals.append(torch.load(ckpt_path, weights_only=True))
    one, other = finals
    assert one["global_step"] == other["global_step"] == 12
    for weights in ("state_dict", "current_model_state", "averaging_state"):
        assert are_equal(one[weights], other[weights]), weights
    assert not are_equal(one["state_dict"], one["current_model_state"])


def test_a_checkpoint_of_a_training_without_an_average_begins_one(images, checkpoint, tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.fit(module_of(checkpoint), data_of(images, checkpoint))
    trainer.save_checkpoint(tmp_path / "raw.ckpt")
    seen, raw = ExponentialMovingAverage(decay=0.9), RawWeights()
    trainer = trainer_of(tmp_path, seen, raw, max_epochs=-1, max_steps=7)
    module = module_of(checkpoint)
    trainer.fit(module, data_of(images, checkpoint), ckpt_path=tmp_path / "raw.ckpt")
    # The first update takes the weights as they are.
    assert torch.equal(weights_of(module)[NAME].double(), raw.steps[0])


class Save(L.Callback):
    """Writes a checkpoint at one of Lightning's hooks, and notes the step's raw weights."""

    def __init__(self, path: Path, hook: str) -> None:
        self.path = path
        self.raw: dict[str, Tensor] = {}
        setattr(self, hook, self._save)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.raw = weights_of(pl_module)

    def _save(self, trainer: L.Trainer, *_: object) -> None:
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_validation_batch_end", "on_validation_end", "on_train_end"])
def test_a_checkpoint_has_both_sets_whenever_and_by_whomever_it_is_written(
    images, checkpoint, tmp_path, hook, is_first
):
    save, average = Save(tmp_path / "some.ckpt", hook), ExponentialMovingAverage(decay=0.9)
    module = module_of(checkpoint)
    trainer = trainer_of(tmp_path, *([save, average] if is_first else [average, save]), num_sanity_val_steps=0)
    trainer.fit(module, data_of(images, checkpoint))
    written = torch.load(tmp_path / "some.ckpt", weights_only=True)
    assert are_equal(written["current_model_state"], save.raw)
    assert are_equal(written["state_dict"], weights_of(module))  # which has the average when the training has ended
    assert written["averaging_state"]["n_averaged"] == 6


def test_a_checkpoint_that_is_written_before_the_update_of_its_step_has_it(images, checkpoint, tmp_path):
    class SaveFirst(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            trainer.save_checkpoint(tmp_path / "some.ckpt")

    module = module_of(checkpoint)
    trainer = trainer_of(tmp_path, SaveFirst(), ExponentialMovingAverage(decay=0.9), max_steps=3)
    trainer.fit(module, data_of(images, checkpoint))
    written = torch.load(tmp_path / "some.ckpt", weights_only=True)
    assert written["averaging_state"]["n_averaged"] == 3
    assert are_equal(written["state_dict"], weights_of(module))


def test_a_validation_that_breaks_off_leaves_the_raw_weights_to_those_who_save(images, checkpoint, tmp_path):
    class Break(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            self.raw = weights_of(pl_module)

        def on_validation_batch_start(self, *_: object) -> None:
            raise RuntimeError("broken off")

        def on_exception(self, trainer, pl_module, exception) -> None:
            self.left = weights_of(pl_module)
            trainer.save_checkpoint(tmp_path / "some.ckpt")

    seen = Break()
    trainer = trainer_of(tmp_path, ExponentialMovingAverage(decay=0.9), seen, num_sanity_val_steps=0)
    with pytest.raises(RuntimeError, match="broken off"):
        trainer.fit(module_of(checkpoint), data_of(images, checkpoint))
    assert are_equal(seen.left, seen.raw)
    assert are_equal(torch.load(tmp_path / "some.ckpt", weights_only=True)["current_model_state"], seen.raw)


def test_a_module_that_loads_its_network_late_is_averaged_too(images, checkpoint, tmp_path):
    module = CaptionModule(checkpoint=str(checkpoint))
    average = ExponentialMovingAverage(decay=0.9)
    trainer = trainer_of(tmp_path, average, max_steps=2, limit_val_batches=0)
    trainer.fit(module, data_of(images, checkpoint))
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    written = torch.load(tmp_path / "some.ckpt", weights_only=True)
    assert not torch.equal(written["state_dict"][NAME], written["current_model_state"][NAME])


def test_an_average_and_early_stopping_go_together(compose, images, tmp_path):
    stop = ["callbacks=[early-stopping,ema]", "callbacks.early_stopping.patience=1", "val_every_n_steps=1"]
    still = ["model.lr=1.0e-9", "trainer.max_epochs=3"]  # nothing improves
    captioning.run.train(compose(*SMALL, f"data.path={images}", *stop, *still))
    gallery = (tmp_path / "run" / "gallery.jsonl").read_text().splitlines()
    assert len({json.loads(line)["step"] for line in gallery}) == 2
    assert "current_model_state" in torch.load(best_of(tmp_path / "run"), weights_only=True)


def test_two_processes_have_the_same_average(images, tmp_path):
    """Each keeps its own; were they different, the test's loss wouldn't be that of the exported model."""
    own = ["callbacks=ema", "callbacks.ema.decay=0.9", "model.lr=0.01", f"data.path={images}", "monitor=val/loss"]
    folder = tmp_path / "run"
    assert run(*SMALL, *own, folder=folder, processes=2) == [0, 0], said(folder)[-3000:]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert losses_of(folder, images, "state_dict")["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["callbacks.ema.decay=1.0"], r"^callbacks\.ema\.decay must be below 1, got 1\.0"),
        (["callbacks.ema.decay=0.0"], r"^callbacks\.ema\.decay must be above 0, got 0\.0"),
        (["trainer.precision=bf16-true"], r"^trainer\.precision=bf16-true and callbacks=ema: .*bf16-mixed$"),
    ],
)
def test_what_an_average_cannot_be_is_refused_by_name(compose, images, overrides, line):
    with pytest.raises((InstantiationException, UserError)) as caught:
        captioning.run.train(compose(*SMALL, f"data.path={images}", "callbacks=ema", *overrides))
    assert re.search(line, explain(caught.value))
