import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from captioning.errors import UserError
from captioning.models.loading import init_model, load_model
from captioning.models.processor import load_processor


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint, to be damaged."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def save_as_bin(folder: Path, weights: object) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def test_dropout_is_on_after_loading(checkpoint):
    assert all(module.training for module in load_model(str(checkpoint)).modules())


def test_half_precision_weights_are_loaded_in_float32(copy):
    transformers.AutoModelForCausalLM.from_pretrained(copy).half().save_pretrained(copy)
    assert {parameter.dtype for parameter in load_model(str(copy)).parameters()} == {torch.float32}


def test_older_weight_files_are_read(checkpoint, copy):
    weights = load_model(str(checkpoint)).state_dict()
    save_as_bin(copy, weights)
    for name, tensor in load_model(str(copy)).state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_an_older_weight_file_with_code_in_it_is_refused_and_the_code_not_run(copy, tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    save_as_bin(copy, {"weights": Payload()})
    with pytest.raises(UserError, match=r"model\.checkpoint="):
        load_model(str(copy))
    assert not (tmp_path / "pwned").exists()


def test_code_in_a_checkpoint_is_not_run(copy, tmp_path):
    (copy / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'pwned')!r})\n")
    change_config(copy, model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(UserError, match=r"model\.checkpoint="):
        load_model(str(copy))
    assert not (tmp_path / "pwned").exists()


def test_adapters_beside_a_model_are_neither_left_out_nor_put_in_unasked(copy):
    (copy / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "other/model"})
    )
    with pytest.raises(UserError, match=r"model\.checkpoint=.*has adapters beside the model.*merge_and_unload"):
        load_model(str(copy))


def test_another_architecture_is_refused_by_name(tmp_path):
    config = transformers.GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is a 'gpt2' model.*microsoft/git-base"):
        load_model(str(tmp_path))


def test_a_checkpoint_for_video_is_refused(copy):
    change_config(copy, num_image_with_embedding=6)
    with pytest.raises(UserError, match="for video"):
        load_model(str(copy))


def test_missing_weights_are_refused(copy):
    weights = load_model(str(copy)).state_dict()
    del weights["git.encoder.layer.0.output.dense.weight"]
    save_as_bin(copy, weights)
    with pytest.raises(UserError, match=r"1 of its weights are missing, git\.encoder\.layer\.0\.output\.dense\.weight"):
        load_model(str(copy))


@pytest.mark.parametrize("damage", ["truncated", "absent", "of another size"])
def test_damaged_weights_are_refused_by_name(copy, damage):
    weights = copy / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "absent":
        weights.unlink()
    else:
        change_config(copy, vocab_size=3)
    with pytest.raises(UserError, match=rf"model\.checkpoint={copy}"):
        load_model(str(copy))


def test_a_checkpoint_in_the_hub_cache_loads_without_a_network(checkpoint, tmp_path):
    repository = tmp_path / "hub" / "models--someone--git-small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(checkpoint, repository / "snapshots" / ("0" * 40))
    code = "from captioning.models.loading import load_model; print(load_model('someone/git-small').num_parameters())"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(ran.stdout) == load_model(str(checkpoint)).num_parameters()


def test_random_weights_fit_the_processor(checkpoint):
    processor = load_processor(str(checkpoint))
    config = init_model({"hidden_size": 12, "num_hidden_layers": 1}, processor=processor).config
    assert config.vocab_size == len(processor.tokenizer)
    assert (config.bos_token_id, config.eos_token_id) == (
        processor.tokenizer.cls_token_id,
        processor.tokenizer.sep_token_id,
    )
    assert config.vision_config.image_size == 32


def test_a_larger_vocabulary_than_the_tokenizers_is_kept(checkpoint):
    processor = load_processor(str(checkpoint))
    architecture = {"vocab_size": 30522, "hidden_size": 12, "num_hidden_layers": 1}
    assert init_model(architecture, processor=processor).config.vocab_size == 30522


@pytest.mark.parametrize(
    ("architecture", "named"),
    [
        ({"hiden_size": 12}, r"model\.architecture\.hiden_size.*did you mean hidden_size"),
        ({"vision_config": {"patchsize": 8}}, r"vision_config\.patchsize.*did you mean patch_size"),
        ({"vision_config": {"image_size": 64}}, "image_size=64 must equal the processor's 32"),
        ({"hidden_size": "wide"}, r"model\.architecture: .*hidden_size"),
    ],
)
def test_a_wrong_architecture_is_named(checkpoint, architecture, named):
    with pytest.raises(UserError, match=named):
        init_model(architecture, processor=load_processor(str(checkpoint)))


def test_git_base_from_scratch_has_the_published_size(compose, checkpoint):
    with torch.device("meta"):
        architecture = dict(compose("model=git-base").model.architecture)
        processor = load_processor(str(checkpoint))
        processor.image_processor.crop_size = {"height": 224, "width": 224}
        model = init_model(architecture, processor=processor)
    assert model.num_parameters() == 176_619_066
