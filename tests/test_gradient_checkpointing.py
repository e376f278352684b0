"""model.gradient_checkpointing=true: the same gradients from less memory."""

import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL
from torch.utils._python_dispatch import TorchDispatchMode

import captioning.run
from captioning import CaptionDataModule, CaptionModule
from captioning.data.dataset import Batch
from captioning.models.loading import enable_gradient_checkpointing, init_model
from captioning.models.loss import caption_loss


def first_batch(images: Path, checkpoint: Path, captions: str) -> Batch:
    data = CaptionDataModule(
        path=str(images), processor=str(checkpoint), batch_size=8, num_workers=0, captions=captions
    )
    data.setup()
    return data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)


def gradients_of(module: CaptionModule, batch: Batch) -> dict[str, torch.Tensor]:
    module.zero_grad()
    module.train()
    torch.manual_seed(3)  # of dropout
    caption_loss(module.network, **module._inputs(batch, "train")).loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def pair_of(checkpoint: Path) -> tuple[CaptionModule, CaptionModule]:
    """The same module without gradient checkpointing and with it; dropout is on in both."""
    plain, saving = (CaptionModule(checkpoint=str(checkpoint), gradient_checkpointing=on) for on in (False, True))
    for module in (plain, saving):
        module.load()
        assert any(isinstance(layer, torch.nn.Dropout) and layer.p > 0 for layer in module.modules())
        module.network.config.vision_config.attention_dropout = 0.1  # the published models have none in this tower
        for layer in module.network.git.image_encoder.vision_model.encoder.layers:
            layer.self_attn.dropout = 0.1
    return plain, saving


@pytest.mark.parametrize("captions", ["first", "all"])
def test_every_gradient_is_the_same_with_dropout_on_and_with_packed_captions(images, checkpoint, captions):
    batch = first_batch(images, checkpoint, captions)
    assert ("caption_index" in batch) == (captions == "all")
    plain, saving = (gradients_of(module, batch) for module in pair_of(checkpoint))
    assert plain.keys() == saving.keys()
    assert {name.split(".")[2] for name in plain} >= {"image_encoder", "encoder", "embeddings"}
    for name, gradient in plain.items():
        torch.testing.assert_close(saving[name], gradient, rtol=1e-6, atol=0, msg=name)


def test_another_dropout_would_be_seen(images, checkpoint):
    """That the test above could fail: other random numbers in the backward pass are other gradients."""
    batch = first_batch(images, checkpoint, "first")
    module, _ = pair_of(checkpoint)
    one = gradients_of(module, batch)
    torch.manual_seed(4)
    module.zero_grad()
    caption_loss(module.network, **module._inputs(batch, "train")).loss.backward()
    name = "model.git.encoder.layer.0.attention.self.query.weight"
    assert not torch.allclose(one[name], dict(module.named_parameters())[name].grad, rtol=1e-3)


def test_the_next_step_draws_the_random_numbers_that_it_would_have_drawn(images, checkpoint):
    batch = first_batch(images, checkpoint, "first")
    states = []
    for module in pair_of(checkpoint):
        gradients_of(module, batch)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


class LiveBytes(TorchDispatchMode):
    """Bytes of tensors that were made within and are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.known:
            return
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@contextmanager
def peak_of(model: torch.nn.Module) -> Iterator[LiveBytes]:
    """The most that is held at a time, without the gradients of weights, which are there before."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with LiveBytes() as live:
        yield live


@pytest.mark.parametrize(("vision_layers", "text_layers"), [(8, 1), (1, 8)])
def test_the_peak_of_memory_is_lower_by_what_the_layers_of_either_tower_hold(
    images, checkpoint, vision_layers, text_layers
):
    import transformers

    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    tower = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2}
    vision = {**tower, "num_hidden_layers": vision_layers, "patch_size": 4}
    batch = first_batch(images, checkpoint, "first")
    names = ("pixel_values", "input_ids", "attention_mask", "labels")
    peaks = []
    for saves in (False, True):
        model = init_model({**tower, "num_hidden_layers": text_layers, "vision_config": vision}, processor=processor)
        if saves:
            enable_gradient_checkpointing(model)
        with peak_of(model) as live:
            caption_loss(model.train(), **{name: batch[name] for name in names}).loss.backward()
        peaks.append(live.peak)
    assert peaks[1] < 0.5 * peaks[0]  # eight layers' worth, against one's and eight inputs


def test_a_run_leaves_nothing_of_it_in_the_models_configuration(compose, images, tmp_path):
    configurations = []
    for on in ("false", "true"):
        folder = tmp_path / on
        own = [f"data.path={images}", f"model.gradient_checkpointing={on}", f"output_dir={folder}"]
        captioning.run.train(compose(*SMALL, *own))
        configurations.append(json.loads((folder / "model" / "config.json").read_text()))
    assert configurations[0] == configurations[1]
    state = [torch.load(tmp_path / on / "checkpoints" / "last.ckpt", weights_only=True) for on in ("false", "true")]
    for name, weights in state[0]["state_dict"].items():
        torch.testing.assert_close(state[1]["state_dict"][name], weights, rtol=1e-4, atol=1e-6, msg=name)


def test_a_checkpoint_goes_on_as_it_was_trained(compose, images, tmp_path):
    captioning.run.train(compose(*SMALL, f"data.path={images}", "model.gradient_checkpointing=true"))
    module = CaptionModule.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    layers = [layer for layer in module.modules() if type(layer).__name__ in ("GitLayer", "GitVisionEncoderLayer")]
    assert len(layers) == 4
    assert all(layer.gradient_checkpointing for layer in layers)
