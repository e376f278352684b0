import pytest
import torch
from torch import nn

from captioning.models.linear import HAS_ONEDNN, Linear

only_with_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="no oneDNN on this CPU")


def layers(**options) -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    torchs = nn.Linear(96, 200, **options)
    ours = nn.Linear(96, 200, **options)
    ours.load_state_dict(torchs.state_dict())
    ours.__class__ = Linear
    return ours, torchs


def products(layer: nn.Module, x: torch.Tensor) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        layer(x)
    return {event.key for event in profiled.key_averages()} & {"mkldnn::_linear_pointwise", "aten::linear"}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(96,), (1, 96), (4, 1, 96), (2, 3, 197, 96), (0, 96)])
def test_it_computes_what_torchs_computes(bias, shape):
    ours, torchs = layers(bias=bias)
    x = torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), torchs(x), rtol=1e-5, atol=1e-6)


def test_rows_that_do_not_lie_together_are_multiplied_as_others():
    ours, torchs = layers()
    x = torch.randn(4, 10, 192)[:, -1:, ::2]
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), torchs(x), rtol=1e-5, atol=1e-6)


@only_with_onednn
def test_without_a_gradient_onednn_computes():
    with torch.no_grad():
        assert products(layers()[0], torch.randn(4, 96)) == {"mkldnn::_linear_pointwise"}


def test_with_a_gradient_torch_computes():
    assert products(layers()[0], torch.randn(4, 96)) == {"aten::linear"}


@torch.no_grad()
def test_in_bfloat16_torch_computes():
    assert products(layers()[0].bfloat16(), torch.randn(4, 96).bfloat16()) == {"aten::linear"}


def test_under_autocast_torch_computes_in_the_lower_precision():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layers()[0](torch.randn(4, 96)).dtype == torch.bfloat16
