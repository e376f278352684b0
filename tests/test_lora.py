"""model.lora_rank: small matrices learn, the weights stay, and what is left is a plain GIT."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import SMALL
from runs import forked, run, said
from test_module import data_of, trainer_of

from captioning import CaptionModule
from captioning.data.dataset import Batch
from captioning.errors import UserError
from captioning.models.decoding import Decoding
from captioning.models.generation import generate_captions
from captioning.models.git import GitForCausalLM, KVCache
from captioning.models.loading import load_model
from captioning.models.loss import caption_loss
from captioning.models.processor import load_processor
from captioning.run import evaluate
from captioning.training.distributed.strategies import whole_network

TEXT = ("attention.self.query", "attention.self.key", "attention.self.value")
TEXT += ("attention.output.dense", "intermediate.dense", "output.dense")
VISION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
# The linear layers of the checkpoint's two layers in either tower.
ADAPTED = {
    "text": {f"git.encoder.layer.{layer}.{name}" for layer in (0, 1) for name in TEXT},
    "vision": {f"git.image_encoder.vision_model.encoder.layers.{layer}.{name}" for layer in (0, 1) for name in VISION},
}
CHOICES = [("text",), ("vision",), ("text", "vision")]


def module_of(checkpoint: Path, **settings: Any) -> CaptionModule:
    defaults = {"lora_rank": 4, "lr": 0.02, "lr_schedule": "constant", "warmup_fraction": 0.0, "max_new_tokens": 8}
    module = CaptionModule(checkpoint=str(checkpoint), **{**defaults, **settings})
    module.load()
    return module


def adapters_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in network.named_parameters() if ".lora_" in name}


@pytest.fixture(scope="module")
def batch(images, checkpoint) -> Batch:
    data = data_of(images, checkpoint, batch_size=8)
    data.setup()
    return data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)


@torch.no_grad()
def answers_of(network: GitForCausalLM, batch: Batch, checkpoint: Path) -> tuple[torch.Tensor, list[str]]:
    """The loss of a batch, and what is said of its images."""
    was_training = [(part, part.training) for part in network.modules()]
    network.eval()
    inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask", "labels")}
    images = KVCache()
    loss = caption_loss(network, **inputs, kv_cache=images)
    tokenizer = load_processor(str(checkpoint)).tokenizer
    captions = generate_captions(network, tokenizer, images, Decoding(max_new_tokens=8))
    for part, training in was_training:
        part.training = training
    return loss.loss / loss.tokens, captions


def trained(images: Path, checkpoint: Path, folder: Path, **settings: Any) -> tuple[CaptionModule, L.Trainer]:
    module = module_of(checkpoint, **settings)
    trainer = trainer_of(folder, max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(module, data_of(images, checkpoint))
    return module, trainer


@pytest.fixture(scope="module", params=CHOICES, ids="+".join)
def after(request, images, checkpoint, tmp_path_factory) -> tuple[CaptionModule, L.Trainer]:
    """A module with adapters, after two epochs."""
    return trained(images, checkpoint, tmp_path_factory.mktemp("after"), lora_towers=request.param)


def test_the_linear_layers_of_the_towers_that_are_named_have_adapters_and_no_others(after):
    module, _ = after
    adapted = {name.removesuffix(".lora_B.default.weight") for name in adapters_of(module.network) if "lora_B" in name}
    assert adapted == set().union(*(ADAPTED[tower] for tower in module.lora.towers))
    assert {weight.shape[0] for name, weight in adapters_of(module.network).items() if "lora_A" in name} == {4}


@pytest.mark.parametrize("towers", CHOICES, ids="+".join)
def test_at_the_start_the_network_computes_what_it_did_without_them(checkpoint, batch, towers):
    plain, adapted = load_model(str(checkpoint)), module_of(checkpoint, lora_towers=towers).network
    (loss, captions), (ours, same) = (answers_of(network, batch, checkpoint) for network in (plain, adapted))
    assert torch.equal(loss, ours)
    assert captions == same


def test_every_adapter_learns_and_nothing_else_does(after, checkpoint):
    module, trainer = after
    before = load_model(str(checkpoint)).state_dict()
    fresh = module_of(checkpoint, lora_towers=module.lora.towers)
    for name, weight in module.network.state_dict().items():
        if ".lora_B." in name:
            assert weight.abs().max() > 0, name  # it began with zeros
        elif ".lora_A." not in name:
            assert torch.equal(weight, before[name.replace(".base_layer", "")]), name
    weights, vectors = trainer.optimizers[0].param_groups
    assert len(weights["params"]) == len(adapters_of(fresh.network))
    assert (weights["weight_decay"], vectors["params"]) == (0.01, [])


def test_what_is_written_down_is_a_plain_model_that_says_the_same(after, checkpoint, batch):
    module, _ = after
    merged = whole_network(module)
    assert merged.state_dict().keys() == load_model(str(checkpoint)).state_dict().keys()
    (loss, captions), (ours, same) = (answers_of(network, batch, checkpoint) for network in (merged, module.network))
    torch.testing.assert_close(loss, ours, rtol=0, atol=1e-5)
    assert captions == same
    untrained, others = answers_of(load_model(str(checkpoint)), batch, checkpoint)
    assert abs(untrained - ours) > 1e-3
    assert captions != others or "text" not in module.lora.towers  # such a small decoder hardly looks at the image


def test_the_module_stays_as_it_is_when_it_is_written_down(after):
    module, _ = after
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [(name, part.training) for name, part in module.named_modules()]
    learns = [(name, weight.requires_grad) for name, weight in module.named_parameters()]
    whole_network(module)
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [(name, part.training) for name, part in module.named_modules()] == modes
    assert [(name, weight.requires_grad) for name, weight in module.named_parameters()] == learns


def test_the_scale_is_alpha_over_the_rank_and_2_by_default(checkpoint, batch):
    losses = []
    for settings in ({}, {"lora_alpha": 8}, {"lora_alpha": 2}):
        torch.manual_seed(1)
        module = module_of(checkpoint, **settings)
        with torch.no_grad():
            for name, weight in module.network.named_parameters():
                if ".lora_B." in name:
                    weight.fill_(0.05 if settings.get("lora_alpha") != 2 else 0.2)
        losses += [
            answers_of(module.network, batch, checkpoint)[0],
            answers_of(whole_network(module), batch, checkpoint)[0],
        ]
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=0, atol=1e-5)


def test_dropout_is_of_what_the_adapters_see(checkpoint):
    parts = module_of(checkpoint, lora_dropout=0.3).network.named_modules()
    dropped = [part.p for name, part in parts if ".lora_dropout." in name]
    assert dropped == [0.3] * len(ADAPTED["text"])


def test_the_seed_decides_how_adapters_begin(checkpoint):
    adapters = []
    for seed in (1, 1, 2):
        L.seed_everything(seed, verbose=False)
        adapters.append(adapters_of(module_of(checkpoint).network))
    assert all(torch.equal(weight, adapters[1][name]) for name, weight in adapters[0].items())
    assert not any(torch.equal(weight, adapters[2][name]) for name, weight in adapters[0].items() if "lora_A" in name)


@pytest.mark.parametrize("towers", CHOICES, ids="+".join)
def test_gradients_are_the_same_with_gradient_checkpointing_and_reach_every_adapter(checkpoint, batch, towers):
    gradients = []
    for saves in (False, True):
        torch.manual_seed(3)
        module = module_of(checkpoint, lora_towers=towers, lora_dropout=0.2, gradient_checkpointing=saves)
        caption_loss(module.network, **module._inputs(batch, "train")).loss.backward()
        gradients.append({name: w.grad for name, w in module.network.named_parameters() if w.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == adapters_of(module.network).keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=0, msg=name)
        assert ".lora_B." not in name or gradient.abs().max() > 0, name


@pytest.mark.parametrize(("towers", "visits"), [(("text",), 1), (("text", "vision"), 2)])
def test_a_tower_without_adapters_is_frozen_and_sees_each_image_once(images, checkpoint, tmp_path, towers, visits):
    seen: list[int] = []
    module = module_of(checkpoint, lora_towers=towers)
    tower = module.network.git.image_encoder
    tower.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
    data = data_of(images, checkpoint)
    trainer_of(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(module, data)
    assert sum(seen) == visits * (len(data.splits["train"]) + len(data.splits["val"]))
    assert module.is_vision_frozen == (not any(part.training for part in tower.modules())) == (visits == 1)


# ------------------------------------------------------------ whole runs

LORA = ("model.lora_rank=4", "model.lr=0.02", "data.test_fraction=0.2")


@pytest.fixture(scope="module")
def settings(images, checkpoint) -> list[str]:
    of_checkpoint = [f"model.checkpoint={checkpoint}", "model.architecture=null", "model.lr_schedule=constant"]
    return [
        *(s for s in SMALL if not s.startswith("model.architecture.")),
        *of_checkpoint,
        *LORA,
        f"data.path={images}",
    ]


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run(*settings, "model.lora_towers=[text,vision]", folder=folder) == [0], said(folder)[-3000:]
    return folder


def predictions_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_it_is_said_how_much_is_trained(finished):
    # Of each tower's two layers: five layers between 32 and 32 or 64 units, and back; ranks of four.
    adapters = 2 * 2 * 4 * (4 * (32 + 32) + 2 * (32 + 64))
    with_them = sum(weight.numel() for weight in torch.load(best_of(finished))["state_dict"].values())
    assert f"training {adapters:,} of {with_them:,} weights" in said(finished)


def test_transformers_alone_says_what_the_trained_model_said(finished, images):
    lines = predictions_of(finished)
    code = f"""
import sys
sys.modules["peft"] = None
from PIL import Image
from transformers import AutoProcessor, GitForCausalLM
processor = AutoProcessor.from_pretrained({str(finished / "model")!r})
model = GitForCausalLM.from_pretrained({str(finished / "model")!r})
images = [Image.open({str(images)!r} + "/" + name) for name in {[line["id"] for line in lines]}]
ids = model.generate(pixel_values=processor(images=images, return_tensors="pt").pixel_values, max_new_tokens=8)
print("\\n".join(processor.batch_decode(ids, skip_special_tokens=True)))
"""
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.splitlines() == [line["prediction"] for line in lines]


def best_of(folder: Path) -> Path:
    (best,) = (folder / "checkpoints").glob("step*.ckpt")
    return best


def test_a_checkpoint_is_whole_and_evaluated_in_a_fresh_process(finished, tmp_path):
    command = [Path(sys.executable).with_name("captioning"), "evaluate", best_of(finished)]
    command += ["--output-dir", tmp_path / "again"]
    on_cpu = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true", "data.num_workers=0"]
    done = forked([*command, *on_cpu])
    assert done.returncode == 0, done.stderr[-3000:]
    assert predictions_of(tmp_path / "again") == predictions_of(finished)
    ours, again = (json.loads((folder / "metrics.json").read_text()) for folder in (finished, tmp_path / "again"))
    assert again["test/loss"] == pytest.approx(ours["test/loss"], abs=1e-5)


def test_without_peft_a_checkpoint_names_the_extra(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"\.ckpt: model\.lora_rank=4: adapters need peft.*'\.\[lora\]'$"):
        evaluate(str(best_of(finished)))


def captions_of(folder: Path, checkpoint: Path, batch: Batch) -> list[str]:
    return answers_of(load_model(str(folder / "model")), batch, checkpoint)[1]


def test_two_processes_train_averaged_adapters_over_accumulated_batches(settings, checkpoint, batch, tmp_path):
    own = ["data.batch_size=1", "trainer.accumulate_grad_batches=2", "callbacks=ema"]
    own += ["model.gradient_checkpointing=true", "model.lora_dropout=0.1"]
    assert run(*settings, *own, folder=tmp_path / "run", processes=2) == [0, 0], said(tmp_path / "run")[-3000:]
    module = CaptionModule.load_from_checkpoint(best_of(tmp_path / "run"), map_location="cpu")
    assert all(weight.abs().max() > 0 for weight in adapters_of(module.network).values())
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    for name, average in saved["state_dict"].items():
        assert torch.equal(average, saved["current_model_state"][name]) == (".lora_" not in name), name
    assert captions_of(tmp_path / "run", checkpoint, batch) == answers_of(module.network, batch, checkpoint)[1]


@pytest.mark.slow
def test_fsdp_trains_adapters_as_ddp_does(settings, tmp_path):
    losses, weights = [], []
    for strategy in ("ddp", "fsdp"):
        folder = tmp_path / strategy
        own = [
            "data.batch_size=2",
            f"trainer.strategy={strategy}",
            "model.lora_towers=[text,vision]",
            "trainer.max_epochs=2",
        ]
        assert run(*settings, *own, folder=folder, processes=2) == [0, 0], said(folder)[-3000:]
        losses.append(json.loads((folder / "metrics.json").read_text())["test/loss"])
        weights.append(load_model(str(folder / "model")).state_dict())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=1e-2, msg=name)
    assert run(f"resume={tmp_path / 'fsdp'}", "trainer.max_epochs=3", folder=tmp_path / "fsdp", processes=2) == [0, 0]


# ------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"lora_rank": -1}, r"^model\.lora_rank must be at least 0, got -1$"),
        ({"lora_rank": 4, "lora_alpha": 0}, r"^model\.lora_alpha must be at least 1, got 0$"),
        ({"lora_rank": 4, "lora_dropout": 1.0}, r"^model\.lora_dropout must be below 1, got 1\.0$"),
        ({"lora_rank": 4, "lora_towers": ["txt"]}, r"^model\.lora_towers: txt is no tower; did you mean text\?$"),
        ({"lora_rank": 4, "lora_towers": []}, r"^model\.lora_towers=\[\] names no tower.*model\.lora_rank=0$"),
        (
            {"lora_rank": 4, "lora_towers": ["text", "vision"], "freeze_vision": True},
            r"^model\.freeze_vision=true leaves .* model\.lora_towers=.* leave one of them out$",
        ),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_loaded(settings, line):
    with pytest.raises(UserError, match=line):
        CaptionModule(**settings)


def test_without_peft_the_extra_is_named_and_no_adapters_need_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    CaptionModule()
    with pytest.raises(UserError, match=r"^model\.lora_rank=8: .*pip install -e '\.\[lora\]'$"):
        CaptionModule(lora_rank=8)


def test_towers_come_from_the_command_line(compose: Callable[..., Any]):
    assert compose("model.lora_towers=[text,vision]").model.lora_towers == ["text", "vision"]
