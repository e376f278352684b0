import json
import math
from dataclasses import asdict
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from captioning import CaptionDataModule, CaptionModule
from captioning.data.dataset import Batch
from captioning.errors import UserError
from captioning.metrics import HIGHER_IS_BETTER
from captioning.models.decoding import Decoding
from captioning.models.loss import caption_loss


def data_of(images: Path, checkpoint: Path, **settings: object) -> CaptionDataModule:
    defaults = {"processor": str(checkpoint), "batch_size": 4, "num_workers": 0}
    return CaptionDataModule(path=str(images), **{**defaults, **settings})


def trainer_of(folder: Path, **settings: object) -> L.Trainer:
    defaults = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return L.Trainer(**{**defaults, **settings})


@pytest.fixture(scope="module")
def batches(images, checkpoint) -> list[Batch]:
    """Four batches whose captions have different numbers of tokens."""
    data = data_of(images, checkpoint)
    data.setup()
    return [batch for _, batch in zip(range(4), data.train_dataloader(), strict=False)]


class Gradients(L.Callback):
    """What the optimizer saw at each of its steps."""

    def __init__(self) -> None:
        self.steps: list[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step > len(self.steps):
            self.steps.append([p.grad.clone() for p in pl_module.parameters() if p.grad is not None])


def without_dropout(checkpoint: Path, **settings: object) -> CaptionModule:
    module = CaptionModule(checkpoint=str(checkpoint), **settings)
    module.load()
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    return module


def mean_token_gradients(module: CaptionModule, batches: list[Batch]) -> list[torch.Tensor]:
    """The definition: the gradient of all tokens' summed loss over their number."""
    results = [caption_loss(module.network, **module._inputs(batch, "train")) for batch in batches]
    loss = sum(result.loss for result in results) / sum(result.tokens for result in results)
    gradients = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    return [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize("accumulated", [1, 2, 4])
def test_every_token_of_an_accumulation_window_weighs_the_same(checkpoint, batches, tmp_path, accumulated):
    seen = Gradients()
    module = without_dropout(checkpoint)
    expected = mean_token_gradients(module, batches[:accumulated])
    trainer = trainer_of(tmp_path, accumulate_grad_batches=accumulated, callbacks=[seen], limit_val_batches=0)
    trainer.fit(module, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))
    for one, other in zip(seen.steps[0], expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_a_short_last_window_is_divided_by_its_own_tokens(checkpoint, batches, tmp_path):
    seen = Gradients()
    module = without_dropout(checkpoint, lr=1e-12)  # so that the weights are the same at both steps
    expected = mean_token_gradients(module, batches[3:])
    trainer = trainer_of(tmp_path, accumulate_grad_batches=3, callbacks=[seen], limit_val_batches=0)
    trainer.fit(module, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))
    assert len(seen.steps) == 2
    for one, other in zip(seen.steps[1], expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_the_logged_loss_is_the_mean_over_the_windows_tokens(checkpoint, batches, tmp_path):
    module = without_dropout(checkpoint)
    with torch.no_grad():
        results = [caption_loss(module.network, **module._inputs(batch, "train")) for batch in batches]
    trainer = trainer_of(tmp_path, accumulate_grad_batches=4, limit_val_batches=0)
    trainer.fit(module, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))
    expected = sum(result.loss for result in results) / sum(result.tokens for result in results)
    torch.testing.assert_close(trainer.callback_metrics["train/loss"], expected, rtol=1e-5, atol=0)


def test_dropout_is_on_in_every_training_step(images, checkpoint, tmp_path):
    modes = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            modes.append(all(layer.training for layer in pl_module.network.modules()))

    trainer = trainer_of(tmp_path, max_epochs=2, callbacks=[Watch()])
    trainer.fit(CaptionModule(checkpoint=str(checkpoint)), data_of(images, checkpoint))
    assert modes
    assert all(modes)


def test_only_matrices_decay(images, checkpoint, tmp_path):
    module = CaptionModule(checkpoint=str(checkpoint), weight_decay=0.1)
    trainer = trainer_of(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(module, data_of(images, checkpoint))
    decays = {id(p): group["weight_decay"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    for name, parameter in module.named_parameters():
        assert decays[id(parameter)] == (0.1 if parameter.dim() >= 2 else 0.0), name


class LearningRates(L.Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def rates_of(images: Path, checkpoint: Path, folder: Path, **settings: object) -> list[float]:
    seen = LearningRates()
    module = CaptionModule(checkpoint=str(checkpoint), lr=1.0e-3, **settings)
    trainer = trainer_of(folder, max_epochs=2, callbacks=[seen], limit_val_batches=0)
    trainer.fit(module, data_of(images, checkpoint))
    return seen.rates


def test_the_learning_rate_rises_and_falls_linearly(images, checkpoint, tmp_path):
    rates = rates_of(images, checkpoint, tmp_path, warmup_fraction=0.25)
    steps, warmup = len(rates), round(0.25 * len(rates))
    expected = [1e-3 * min(step / warmup, (steps - step) / (steps - warmup)) for step in range(steps)]
    assert rates == pytest.approx(expected)


def test_the_learning_rate_falls_along_a_cosine(images, checkpoint, tmp_path):
    rates = rates_of(images, checkpoint, tmp_path, warmup_fraction=0.0, lr_schedule="cosine")
    expected = [1e-3 * (1 + math.cos(math.pi * step / len(rates))) / 2 for step in range(len(rates))]
    assert rates == pytest.approx(expected)


def test_a_constant_learning_rate_stays(images, checkpoint, tmp_path):
    rates = rates_of(images, checkpoint, tmp_path, warmup_fraction=0.0, lr_schedule="constant")
    assert set(rates) == {1e-3}


def test_a_decay_without_an_end_is_refused(images, checkpoint, tmp_path):
    trainer = trainer_of(tmp_path, max_epochs=-1, max_time={"seconds": 1})
    with pytest.raises(UserError, match=r"model\.lr_schedule=linear.*trainer\.max_epochs"):
        trainer.fit(CaptionModule(checkpoint=str(checkpoint)), data_of(images, checkpoint))


def test_validation_keeps_some_text_of_each_image_and_no_tensor(images, checkpoint, tmp_path):
    module = CaptionModule(checkpoint=str(checkpoint))
    data = data_of(images, checkpoint, val_fraction=0.5, batch_size=2)
    trainer_of(tmp_path).validate(module, data, verbose=False)
    assert len(json.dumps(module.evaluator.numbered)) < 500 * len(module.evaluator.numbered)


def test_validation_numbers_do_not_depend_on_the_batch_size(images, checkpoint, tmp_path):
    def numbers(batch_size: int) -> dict[str, float]:
        data = data_of(images, checkpoint, val_fraction=0.4, batch_size=batch_size)
        module = CaptionModule(checkpoint=str(checkpoint))
        return trainer_of(tmp_path).validate(module, data, verbose=False)[0]

    one_by_one, with_a_short_last_batch = numbers(1), numbers(5)
    assert one_by_one.keys() == {f"val/{name}" for name in HIGHER_IS_BETTER} - {"val/copied_captions"}
    assert with_a_short_last_batch == pytest.approx(one_by_one, rel=1e-5)


@pytest.fixture(scope="module")
def saved(images, checkpoint, tmp_path_factory) -> tuple[CaptionModule, str]:
    """A module trained from random weights, and its Lightning checkpoint."""
    folder = tmp_path_factory.mktemp("saved")
    architecture = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    vision = {**architecture, "patch_size": 8}
    module = CaptionModule(checkpoint=None, architecture={**architecture, "vision_config": vision}, max_new_tokens=7)
    trainer = trainer_of(folder, enable_checkpointing=True, num_sanity_val_steps=0)
    trainer.fit(module, data_of(images, checkpoint, processor=None, image_size=32))
    trainer.save_checkpoint(folder / "last.ckpt")
    return module, str(folder / "last.ckpt")


def test_a_checkpoint_reloads_by_itself(saved):
    module, path = saved
    loaded = CaptionModule.load_from_checkpoint(path)
    assert dict(loaded.hparams) == dict(module.hparams)
    for (name, one), other in zip(module.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_a_reloaded_checkpoint_has_its_processor(saved):
    module, path = saved
    captions = ["a red square on blue", "an unknown thing"]
    loaded = CaptionModule.load_from_checkpoint(path).processor
    assert loaded.tokenizer(captions).input_ids == module.processor.tokenizer(captions).input_ids
    assert loaded.image_processor.to_dict() == module.processor.image_processor.to_dict()


def test_a_checkpoint_needs_no_code_to_load(saved):
    _, path = saved
    assert torch.load(path, weights_only=True)["metrics"].keys() >= {"val/wer", "val/loss"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"lr": 0.0}, r"model\.lr must be above 0, got 0\.0"),
        ({"lr": float("nan")}, r"model\.lr must be above 0, got nan"),
        ({"weight_decay": -0.1}, r"model\.weight_decay"),
        ({"warmup_fraction": 1.5}, r"model\.warmup_fraction.*got 1\.5"),
        ({"lr_schedule": "lineer"}, r"model\.lr_schedule=lineer.*did you mean linear"),
        ({"max_new_tokens": 0}, r"model\.max_new_tokens"),
        ({"num_beams": 0}, r"model\.num_beams"),
        ({"temperature": 0.0}, r"model\.temperature must be above 0, got 0\.0"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_loaded(settings, named):
    with pytest.raises(UserError, match=named):
        CaptionModule(**settings)


def test_an_unknown_setting_is_refused_with_the_nearest_one():
    with pytest.raises(UserError, match=r"^model\.num_beems=4: no such setting; did you mean model\.num_beams\?$"):
        CaptionModule(num_beems=4)


def test_hyperparameters_have_every_decoding_setting():
    module = CaptionModule(num_beams=4)
    assert {name: module.hparams[name] for name in asdict(Decoding())} == asdict(Decoding(num_beams=4))
    assert "decoding" not in module.hparams


def test_a_model_from_scratch_without_a_processor_is_refused():
    with pytest.raises(UserError, match=r"needs a processor"):
        CaptionModule(checkpoint=None).load()
