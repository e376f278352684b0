import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioning import Captioner
from captioning.data.transforms import normalize
from captioning.errors import UserError
from captioning.export.caption_onnx import OnnxCaptioner
from captioning.export.huggingface import export
from captioning.inference.pretrained import load_pretrained
from captioning.models.decoding import Decoding
from captioning.models.generation import generate_tokens, prefill
from captioning.models.processor import fit_images
from captioning.runs.run_folder import write_model


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory) -> Path:
    """A checkpoint whose captions aren't empty, with weights so large that attention is sharp."""
    folder = tmp_path_factory.mktemp("models") / "model"
    network, processor, _ = load_pretrained(checkpoint)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)
    network.generation_config.update(max_new_tokens=9, min_new_tokens=4)
    write_model(folder, network=network, processor=processor)
    return folder


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "whole"
    export(str(model), folder, form="onnx")
    return folder


@pytest.fixture(scope="module")
def small(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "int8"
    export(str(model), folder, form="onnx", int8=True)
    return folder


@pytest.fixture(scope="module")
def files(images) -> list[Path]:
    return sorted(images.glob("*.png"))


def test_captions_are_those_of_torch_to_the_token(model, exported):
    network, _, _ = load_pretrained(model)
    pixel_values = torch.randn(7, 3, 32, 32)
    decoding = Decoding(max_new_tokens=9, min_new_tokens=4)
    expected = generate_tokens(network.eval(), prefill(network, pixel_values), decoding)
    tokens = OnnxCaptioner(exported).generate(pixel_values.numpy())
    assert tokens.tolist() == expected.tolist()


def test_logits_are_those_of_torch_for_any_number_of_images_and_tokens(model, exported):
    network, _, _ = load_pretrained(model)
    captioner = OnnxCaptioner(exported)
    for images, before, new in ((1, 0, 1), (3, 0, 4), (2, 5, 1), (5, 3, 2)):
        pixel_values, tokens = torch.randn(images, 3, 32, 32), torch.randint(5, 30, (images, before + new))
        keys, values = captioner.encoder.run(None, {"pixel_values": pixel_values.numpy()})
        past = [np.zeros((*keys.shape[:3], 0, keys.shape[-1]), np.float32)] * 2
        shared = {"image_keys": keys, "image_values": values}
        for part in filter(lambda part: part.numel(), tokens.split([before, new], dim=1)):
            given = {"input_ids": part.numpy(), **shared, "past_keys": past[0], "past_values": past[1]}
            logits, *past = captioner.decoder.run(None, given)
        with torch.inference_mode():
            cache = prefill(network.eval(), pixel_values)
            expected = network.output(network.decode_step(tokens, cache)[:, -1])
        assert np.abs(logits - expected.numpy()).max() < 1e-4 * expected.abs().max()


def test_its_program_captions_files_without_torch_transformers_and_this_project(model, exported, files):
    hidden = "import sys; sys.modules |= dict.fromkeys(['torch', 'transformers', 'captioning']); import runpy; "
    script = f"{hidden}sys.argv = {['caption.py', *map(str, files)]}; runpy.run_path('caption.py', run_name='__main__')"
    ran = subprocess.run([sys.executable, "-c", script], cwd=exported, capture_output=True, text=True, check=True)
    captions = [line.split("\t")[1] for line in ran.stdout.splitlines()]
    assert captions == Captioner.from_pretrained(model)(files)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(40, 36), (90, 31), (31, 90), (32, 32), (7, 200)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_its_program_prepares_images_as_training_does(model, exported, tmp_path, fit, size, mode):
    captioner = Captioner.from_pretrained(model)
    image_processor = captioner.processor.image_processor
    fit_images(image_processor, fit)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(noise, "RGBA").convert(mode)
    expected = normalize(captioner.prepare(image)[None], image_processor)[0].numpy()
    program = OnnxCaptioner(exported)
    image_processor.save_pretrained(tmp_path)
    program.preparing = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert np.abs(program.prepare(image) - expected).max() < 1e-5


@pytest.mark.slow
def test_int8_is_a_fraction_of_the_size_and_captions(exported, small, files):
    # Of so small a model the graph itself is most.
    sizes = [sum(file.stat().st_size for file in folder.glob("*.onnx")) for folder in (exported, small)]
    assert sizes[1] < 0.85 * sizes[0]
    assert all(OnnxCaptioner(small)(files[:3]))


def test_the_folder_holds_what_the_program_needs_and_nothing_of_torch(exported):
    names = {file.name for file in exported.iterdir()}
    assert names >= {"encoder.onnx", "decoder.onnx", "caption.py", "captioning.json", "tokenizer.json", "README.md"}
    assert not any(name.endswith((".safetensors", ".bin", ".whole")) for name in names)


@pytest.mark.slow
def test_the_card_says_how_to_use_it(exported, small):
    card = (exported / "README.md").read_text()
    assert "library_name: onnx" in card
    assert "python caption.py image.jpg" in card
    assert "transformers" not in card
    assert "8 bits" in (small / "README.md").read_text()
    assert "8 bits" not in card


@pytest.mark.parametrize(
    ("options", "says"),
    [({"form": "onix"}, "did you mean onnx"), ({"int8": True}, "--int8 goes with --format onnx")],
)
def test_a_wrong_wish_is_refused(model, tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        export(str(model), tmp_path / "new", **options)
    assert not any(tmp_path.iterdir())
