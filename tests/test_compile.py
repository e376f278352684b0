"""model.compile=true: the same numbers from compiled layers."""

import pytest
import torch
from conftest import SMALL
from test_gradient_checkpointing import first_batch, gradients_of
from torch._dynamo.utils import counters

import captioning.run
from captioning import CaptionModule
from captioning.errors import UserError


def pair_of(checkpoint, **settings) -> tuple[CaptionModule, CaptionModule]:
    """The same module as it is and compiled, without dropout, which draws otherwise when compiled."""
    torch._dynamo.reset()
    pair = tuple(CaptionModule(checkpoint=str(checkpoint), compile=on, **settings) for on in (False, True))
    for module in pair:
        module.load()
        for layer in module.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
    return pair


@pytest.fixture
def no_machine_code(monkeypatch) -> None:
    """Layers are traced, forward and backward, as ever, and run without a C++ compiler, which takes a minute."""
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer, **own: compiled(layer, backend="aot_eager", **own))


def test_every_gradient_of_the_traced_layers_is_the_same(images, checkpoint, no_machine_code):
    compare_gradients(images, checkpoint, "first", {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("captions", "settings"), [("first", {}), ("all", {}), ("first", {"gradient_checkpointing": True})]
)
def test_every_gradient_of_the_compiled_layers_is_the_same(images, checkpoint, captions, settings):
    compare_gradients(images, checkpoint, captions, settings)


def compare_gradients(images, checkpoint, captions, settings) -> None:
    batch = first_batch(images, checkpoint, captions)
    plain, compiled = (gradients_of(module, batch) for module in pair_of(checkpoint, **settings))
    assert plain.keys() == compiled.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_layers_are_compiled_once_for_all_lengths_of_captions(images, checkpoint, no_machine_code):
    _, compiled = pair_of(checkpoint)
    counters.clear()
    batch = first_batch(images, checkpoint, "first")
    for length in (4, 3, 6, 5):
        text = {name: batch[name][:, :length] for name in ("input_ids", "attention_mask", "labels")}
        gradients_of(compiled, {**batch, **text})
    assert counters["stats"]["unique_graphs"] == 3  # of the vision tower, the decoder, and its last layer
    assert not counters["graph_break"]


@pytest.mark.slow
def test_a_run_compiles_what_training_computes_and_nothing_else(compose, images):
    counters.clear()
    torch._dynamo.reset()
    own = ["model.compile=true", "trainer.max_epochs=2", "data.batch_size=3"]  # 17 images: no batch is of one
    metrics = captioning.run.train(compose(*SMALL, f"data.path={images}", *own))
    assert counters["stats"]["unique_graphs"] == 3
    assert metrics["test/loss"] > 0


def test_a_machine_without_a_compiler_is_told_what_is_missing(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"model.compile=true: needs a C\+\+ compiler"):
        CaptionModule(checkpoint=str(checkpoint), compile=True).load()
