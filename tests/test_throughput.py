import json

import pytest
import torch
from conftest import SMALL
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import captioning.run
from captioning import CaptionModule
from captioning.models.flops import training_flops
from captioning.models.loading import freeze_vision_tower, load_model
from captioning.models.lora import Lora, add_adapters
from captioning.models.loss import caption_loss
from captioning.training.callbacks.progress_bar import in_words


def counted(model, *, images: int, tokens: int) -> int:
    """What torch counts in a forward and a backward pass; of attention it does in this backend alone."""
    ids = torch.randint(5, model.config.vocab_size, (images, tokens))
    pixel_values = torch.randn(images, 3, 32, 32)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = caption_loss(
            model, pixel_values=pixel_values, input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids
        ).loss
        loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("images", "tokens"), [(1, 2), (3, 9), (2, 20)])
def test_the_operations_are_those_that_torch_counts(checkpoint, images, tokens):
    model = load_model(str(checkpoint))
    expected = counted(model, images=images, tokens=tokens)
    assert training_flops(model, images=images, tokens=tokens) == expected


def test_of_a_frozen_tower_nothing_is_counted(checkpoint):
    model = load_model(str(checkpoint))
    freeze_vision_tower(model)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.encode_image(torch.randn(3, 3, 32, 32))
    expected = counted(model, images=3, tokens=9) - counter.get_total_flops()
    assert training_flops(model, images=3, tokens=9) == expected


def test_of_weights_beside_which_adapters_learn_no_gradient_is_counted(checkpoint):
    plain, adapted = load_model(str(checkpoint)), load_model(str(checkpoint))
    add_adapters(adapted, Lora(rank=1, towers=["text", "vision"]))
    less = training_flops(adapted, images=3, tokens=9) / training_flops(plain, images=3, tokens=9)
    assert 0.6 < less < 0.75  # a third of almost all
    assert training_flops(adapted, images=3, tokens=9) == pytest.approx(counted(adapted, images=3, tokens=9), rel=0.15)


def test_utilization_is_operations_over_those_of_the_peak(compose, images, tmp_path):
    own = [f"data.path={images}", "callbacks.throughput.peak_flops=2.0e+9", f"output_dir={tmp_path}", "logger=csv"]
    metrics = captioning.run.train(compose(*SMALL, *own))
    module = CaptionModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", map_location="cpu")
    of_a_image = metrics["train/mfu"] * 2e9 / metrics["train/images_per_second"]
    least, most = (training_flops(module.network, images=1, tokens=tokens) for tokens in (3, 20))
    assert least < of_a_image < most
    assert json.loads((tmp_path / "metrics.json").read_text())["train/mfu"] == metrics["train/mfu"]


def test_a_device_whose_peak_is_not_known_has_no_utilization(compose, images, tmp_path):
    metrics = captioning.run.train(compose(*SMALL, f"data.path={images}", f"output_dir={tmp_path}"))
    assert metrics["train/images_per_second"] > 0
    assert "train/mfu" not in metrics


def test_the_memory_of_the_process_is_at_least_what_it_holds(compose, images, tmp_path):
    held = torch.zeros(60_000_000)  # 240 MB
    metrics = captioning.run.train(compose(*SMALL, f"data.path={images}", f"output_dir={tmp_path}"))
    assert metrics["train/memory_gb"] > held.nbytes / 1e9


def test_the_bar_says_it_in_few_words():
    rates = {
        "train/images_per_second": 24.06,
        "train/seconds_per_step": 0.166,
        "train/data_wait_share": 0.031,
        "train/memory_gb": 2.94,
        "train/mfu": 0.412,
    }
    words = {"images/s": "24.1", "waiting": "3%", "memory": "2.9 GB", "MFU": "41%"}
    assert in_words(rates) == words


def test_the_bar_shows_the_throughput(compose, images, tmp_path, capsys):
    captioning.run.train(compose(*SMALL, f"data.path={images}", f"output_dir={tmp_path}"))
    assert "images/s:" in capsys.readouterr().out
