"""Training without the vision tower, whose work is done once."""

import resource
from pathlib import Path

import lightning as L
import pytest
import torch
from test_module import data_of, trainer_of, without_dropout

from captioning import CaptionModule
from captioning.models.feature_cache import FeatureFile
from captioning.models.loading import load_model
from captioning.models.loss import caption_loss


class Forgetful(L.Callback):
    """Keeps no features."""

    def on_train_start(self, trainer: L.Trainer, pl_module: CaptionModule) -> None:
        pl_module.features = {}


def trained(images: Path, checkpoint: Path, folder: Path, *callbacks: L.Callback, **data: object):
    """A module after two epochs, its data, and the number of images that its vision tower has seen."""
    seen: list[int] = []
    module = without_dropout(checkpoint, freeze_vision=True, lr=0.01, max_new_tokens=3)
    module.network.git.image_encoder.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
    datamodule = data_of(images, checkpoint, **data)
    trainer_of(folder, max_epochs=2, num_sanity_val_steps=0, callbacks=list(callbacks)).fit(module, datamodule)
    return module, datamodule, sum(seen)


@pytest.fixture(scope="module")
def frozen(images, checkpoint, tmp_path_factory):
    return trained(images, checkpoint, tmp_path_factory.mktemp("frozen"))


def test_the_tower_stays_as_it_is_and_all_else_learns(frozen, checkpoint):
    before = load_model(str(checkpoint)).state_dict()
    for name, weight in frozen[0].network.state_dict().items():
        is_of_tower = name.startswith("git.image_encoder.")
        # A key's bias adds the same to all scores that a softmax compares, and learns nothing but rounding.
        assert torch.equal(weight, before[name]) == is_of_tower or name.endswith("key.bias"), name


def test_the_tower_sees_each_image_once(frozen):
    _, data, seen = frozen
    assert seen == len(data.splits["train"]) + len(data.splits["val"])


def test_what_is_kept_trains_as_what_is_computed_again(frozen, images, checkpoint, tmp_path):
    module, data, seen = trained(images, checkpoint, tmp_path, Forgetful())
    assert seen == 2 * (len(data.splits["train"]) + len(data.splits["val"]))
    for (name, one), other in zip(frozen[0].named_parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)


def test_training_images_that_are_augmented_are_seen_at_each_visit(images, checkpoint, tmp_path):
    _, data, seen = trained(images, checkpoint, tmp_path, augment_color_jitter=0.2)
    assert seen == 2 * len(data.splits["train"]) + len(data.splits["val"])


def test_nothing_is_left_in_the_folder(frozen, images, checkpoint, tmp_path):
    trained(images, checkpoint, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_read_as_they_were_computed(tmp_path, dtype):
    features, images = FeatureFile(tmp_path, 4), torch.randn(4, 3, 8, 8)
    first = features.of([0, 2], images[[0, 2]], lambda pixels: pixels.flatten(2).to(dtype))
    again = features.of([2, 3, 0], images[[2, 3, 0]], lambda pixels: 1 - pixels.flatten(2).to(dtype))
    assert torch.equal(again[[2, 0]], first)
    assert torch.equal(again[1], 1 - images[3].flatten(1).to(dtype))


def test_a_disk_that_is_full_costs_time_and_nothing_else(tmp_path, said):
    features, images = FeatureFile(tmp_path, 4), torch.randn(4, 3, 8, 8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        found = features.of([0, 1, 2, 3], images, lambda pixels: pixels.flatten(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(found, images.flatten(2))
    assert torch.equal(features.of([3], images[3:], lambda pixels: -pixels.flatten(2)), -images[3:].flatten(2))
    assert said.text.count("can't be cached in") == 1


def test_under_autocast_features_take_half_and_the_loss_is_the_same(checkpoint):
    model = load_model(str(checkpoint)).eval()
    pixel_values, ids = torch.randn(2, 3, 32, 32), torch.randint(5, model.config.vocab_size, (2, 6))
    batch = {"pixel_values": pixel_values, "input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        whole = model.git.image_encoder(pixel_values).last_hidden_state  # as transformers hands it on
        features = model.encode_image(pixel_values)
        assert (features.dtype, whole.dtype) == (torch.bfloat16, torch.float32)
        assert torch.equal(caption_loss(model, **batch, features=whole).loss, caption_loss(model, **batch).loss)
