"""What holds on a GPU as on a CPU. Skipped where there is none; `--device cpu` rehearses what a CPU can run."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from runs import run, train
from runs import said as said_by
from test_loss import batch_of
from test_resume import RUN, assert_same_run, interrupted

import captioning.run
from captioning import Captioner
from captioning.data.augment import Augmenter
from captioning.data.transforms import normalize
from captioning.models.decoding import Decoding
from captioning.models.generation import generate_tokens, prefill
from captioning.models.loading import compile_layers, load_model
from captioning.models.loss import caption_loss
from captioning.models.processor import load_processor

pytestmark = pytest.mark.gpu
ON_CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    device = torch.device(request.config.getoption("--device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return device


@pytest.fixture
def gpu(device) -> torch.device:
    """For what a CPU has no like of."""
    if device.type == "cpu":
        pytest.skip("no rehearsal on a CPU")
    return device


def on(device: torch.device, settings: tuple[str, ...] = SMALL) -> list[str]:
    """The settings of a small run on a device."""
    kept = [setting for setting in settings if not setting.startswith("trainer.accelerator")]
    return [*kept, f"trainer.accelerator={device.type}"]


def loss_and_gradients(
    checkpoint: Path, device: torch.device, dtype: torch.dtype | None = None, *, compiled: bool = False
) -> tuple[float, dict[str, torch.Tensor]]:
    model = load_model(str(checkpoint)).eval().to(device)  # eval: dropout would differ
    if compiled:
        compile_layers(model)
    batch = {name: value.to(device) for name, value in batch_of(model, lengths=[5, 9, 12, 3], seed=0).items()}
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        result = caption_loss(model, **batch)
    loss = result.loss / result.tokens
    loss.backward()
    return loss.item(), {
        name: weight.grad.cpu() for name, weight in model.named_parameters() if weight.grad is not None
    }


# ---------------------------------------------------------------- the same numbers


def test_loss_and_gradients_are_those_of_a_cpu(checkpoint, device):
    compare_with_cpu(checkpoint, device)


def compare_with_cpu(checkpoint: Path, device: torch.device, *, compiled: bool = False) -> None:
    expected, gradients = loss_and_gradients(checkpoint, ON_CPU)
    loss, ours = loss_and_gradients(checkpoint, device, compiled=compiled)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_they_are_finite_and_near(checkpoint, device, dtype):
    expected, _ = loss_and_gradients(checkpoint, ON_CPU)
    loss, gradients = loss_and_gradients(checkpoint, device, dtype)
    assert loss == pytest.approx(expected, rel=0.02)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("beams", [1, 4])
def test_captions_are_those_of_a_cpu_to_the_token(checkpoint, device, beams):
    decoding = Decoding(max_new_tokens=8, num_beams=beams)
    tokens = []
    for place in (ON_CPU, device):
        model = load_model(str(checkpoint)).eval().to(place)
        pixel_values = batch_of(model, lengths=[4] * 6, seed=1)["pixel_values"].to(place)
        tokens.append(generate_tokens(model, prefill(model, pixel_values), decoding).cpu())
    assert torch.equal(*tokens)


def test_pixels_are_normalized_as_on_a_cpu_to_the_last_bit(checkpoint, device):
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image_processor = load_processor(str(checkpoint)).image_processor
    on_device = normalize(pixels.to(device), image_processor).cpu()
    assert torch.equal(on_device, normalize(pixels, image_processor))


@pytest.mark.skipif(find_spec("kornia") is None, reason="no kornia")
def test_an_augmented_image_differs_from_that_of_a_cpu_by_less_than_a_gray_level(device):
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augment = Augmenter(crop=0.3, color=0.3, flip=0.5)
    seeds, captions = list(range(6)), [["a cat"]] * 6
    difference = augment(pixels.to(device), seeds, captions).cpu() - augment(pixels, seeds, captions)
    assert difference.abs().max() < 1


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    "own",
    [
        ["trainer.precision=bf16-mixed"],
        ["trainer.precision=16-mixed"],
        ["tf32=true"],
        ["model.gradient_checkpointing=true"],
        ["model.freeze_vision=true"],
        ["model.freeze_vision=true", "trainer.precision=bf16-mixed", "data.num_workers=2"],
        pytest.param(["model.lora_rank=4"], marks=pytest.mark.skipif(find_spec("peft") is None, reason="no peft")),
        ["callbacks=ema", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1.0"],
        ["model.num_beams=4", "data.captions=all"],
        ["model.temperature=0.7"],
    ],
    ids=" ".join,
)
def test_a_run_succeeds_with(compose, images, device, tmp_path, own):
    succeed(compose, images, device, tmp_path, own)


def succeed(compose, images: Path, device: torch.device, tmp_path: Path, own: list[str]) -> None:
    metrics = captioning.run.train(compose(*on(device), f"data.path={images}", *own))
    assert math.isfinite(metrics["val/loss"])
    assert metrics["train/memory_gb"] > 0
    assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_strategy_of_several_processes_runs_with_one(images, device, tmp_path, strategy):
    own = [f"data.path={images}", f"trainer.strategy={strategy}", "hydra.run.dir=run"]
    ran = train(*on(device), *own, folder=tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert math.isfinite(json.loads((tmp_path / "run" / "metrics.json").read_text())["val/loss"])


def test_a_run_has_the_test_loss_of_one_on_a_cpu(compose, images, device, tmp_path):
    losses = []
    for place in (ON_CPU, device):
        still = ["model.lr=1.0e-9", "trainer.precision=32-true", f"output_dir={tmp_path / place.type}-{len(losses)}"]
        losses.append(captioning.run.train(compose(*on(place), f"data.path={images}", *still))["test/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_run_that_is_killed_and_stopped_ends_as_one_that_never_was(images, device, tmp_path):
    settings = [*on(device, RUN), f"data.path={images}", "trainer.deterministic=true", "trainer.devices=1"]
    assert run(*settings, folder=tmp_path / "whole") == [0], said_by(tmp_path / "whole")[-3000:]
    kills = [("SIGKILL", 3, "on_train_batch_start"), ("SIGTERM", 10, "on_train_batch_start")]
    interrupted(*settings, kills=kills, folder=tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_checkpoint_and_model_folder_hold_the_weights_of_the_device(compose, images, device, tmp_path):
    from safetensors.torch import load_file

    captioning.run.train(compose(*on(device), f"data.path={images}", "trainer.limit_val_batches=0"))
    weights = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {weight.device.type for weight in weights.values()} == {"cpu"}
    for name, weight in load_file(tmp_path / "run" / "model" / "model.safetensors").items():
        assert torch.equal(weight, weights[f"model.{name}"]), name


def test_a_gpu_whose_peak_is_known_has_its_utilization_in_the_numbers(compose, images, gpu):
    from lightning.fabric.utilities.throughput import get_available_flops

    if get_available_flops(gpu, torch.bfloat16) is None:
        pytest.skip(f"no peak is known of {torch.cuda.get_device_name(gpu)}")
    metrics = captioning.run.train(compose(*on(gpu), f"data.path={images}", "trainer.precision=bf16-mixed"))
    assert 0 < metrics["train/mfu"] < 1


def test_the_largest_batch_size_is_found(compose, images, gpu, said):
    captioning.run.train(compose(*on(gpu), f"data.path={images}", "find_batch_size=true"))
    assert "find_batch_size: data.batch_size=16" in said.text  # a power of two that the 23 images fill


# ---------------------------------------------------------------- captions


def test_the_captioner_captions_in_half_precision_by_default(checkpoint, images, device):
    captioner = Captioner.from_pretrained(checkpoint, device=device)
    assert captioner.dtype == (torch.float32 if device.type == "cpu" else torch.bfloat16)
    files = sorted(images.glob("*.png"))
    assert len(captioner(files, max_new_tokens=6)) == len(files)


@pytest.fixture
def full(gpu) -> torch.device:
    """A GPU of which another program seems to have nearly all."""
    torch.cuda.empty_cache()
    used, total = torch.cuda.memory_allocated(), torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.set_per_process_memory_fraction((used + 48e6) / total)
    yield gpu
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_batch_that_does_not_fit_is_halved(checkpoint, full):
    captioner = Captioner.from_pretrained(checkpoint, device=full)
    pixels = torch.zeros(4096, 3, 32, 32, dtype=torch.uint8)
    before = torch.cuda.memory_stats(full)["num_ooms"]
    assert len(captioner.caption_pixels(pixels, Decoding(max_new_tokens=4))) == len(pixels)
    assert torch.cuda.memory_stats(full)["num_ooms"] > before


# ---------------------------------------------------------------- compiled layers, which take a minute


def test_gradients_of_compiled_layers_are_those_of_a_cpu(checkpoint, device):
    compare_with_cpu(checkpoint, device, compiled=True)


def test_a_run_of_compiled_layers_succeeds(compose, images, device, tmp_path):
    succeed(compose, images, device, tmp_path, ["model.compile=true"])
