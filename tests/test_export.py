import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import runs
import transformers
import yaml
from conftest import SMALL
from huggingface_hub import ModelCard

from captioning import Captioner
from captioning.errors import UserError
from captioning.export.card import cell, without_places
from captioning.export.huggingface import export


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose captions aren't chosen as by default."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    decoding = ("model.num_beams=2", "model.max_new_tokens=6", "model.min_new_tokens=3")
    own = (f"data.path={images}", f"hydra.run.dir={folder}", "logger=csv", *decoding)
    assert runs.train(*SMALL, *own, folder=folder.parent).returncode == 0
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "squares"
    export(str(run), folder)
    return folder


@pytest.fixture(scope="module")
def card(exported: Path) -> str:
    return (exported / "README.md").read_text()


def test_the_cards_own_lines_caption_as_the_run_with_transformers_alone(run, exported, card, images, tmp_path):
    shutil.copytree(exported, tmp_path / "squares")
    image = sorted(images.glob("*.png"))[0]
    shutil.copy(image, tmp_path / "image.jpg")
    [lines] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    script = f"import sys\nsys.modules['captioning'] = None\n{lines}"
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == Captioner.from_pretrained(run, device="cpu")(image)


def test_it_holds_weights_processor_decoding_and_card_and_no_pickle(exported):
    assert {path.name for path in exported.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "samples",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_its_decoding_is_that_of_the_run(exported):
    decoding = transformers.GenerationConfig.from_pretrained(exported)
    assert (decoding.num_beams, decoding.max_new_tokens, decoding.min_new_tokens) == (2, 6, 3)


def test_the_cards_numbers_are_those_of_the_test(run, exported):
    results = ModelCard.load(exported / "README.md").data.eval_results
    metrics = json.loads((run / "metrics.json").read_text())
    assert {result.metric_type for result in results} >= {"wer", "cider", "bleu4"}
    assert all(result.metric_value == metrics[f"test/{result.metric_type}"] for result in results)


def test_the_card_shows_test_images_with_their_captions(run, card):
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    rows = re.findall(r"!\[\]\((.*?)\) \| (.*?) \|", card)
    assert rows
    assert {caption for _, caption in rows} <= {cell(prediction["prediction"]) for prediction in predictions}


def test_without_samples_no_image_is_in_it(run, tmp_path):
    export(str(run), tmp_path / "new", samples=0)
    assert not (tmp_path / "new" / "samples").exists()
    assert "![" not in (tmp_path / "new" / "README.md").read_text()


def test_the_card_does_not_tell_where_things_lay(run, card, images):
    assert str(images) not in card
    assert str(run) not in card
    assert images.name in card


def test_the_card_says_that_a_licence_of_the_data_is_not_known_until_it_is(run, card, tmp_path):
    assert "Their license wasn't stated" in card
    export(str(run), tmp_path / "new", samples=0, license="mit", data_license="cc0-1.0")
    assert "Their license: cc0-1.0." in (tmp_path / "new" / "README.md").read_text()
    assert ModelCard.load(tmp_path / "new" / "README.md").data.license == "mit"


def test_of_a_model_without_its_run_nothing_is_said_of_training(checkpoint, tmp_path):
    export(str(checkpoint), tmp_path / "new")
    card = (tmp_path / "new" / "README.md").read_text()
    assert "What it was trained on isn't known to this card" in card
    assert "split" not in card
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-to-text"


def test_a_checkpoint_of_a_run_is_not_given_the_numbers_of_its_best_model(run, tmp_path):
    export(str(run / "checkpoints" / "last.ckpt"), tmp_path / "new")
    assert "model-index" not in (tmp_path / "new" / "README.md").read_text()


def test_a_folder_with_something_in_it_stays_as_it_was(checkpoint, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="something is in it; name a new folder"):
        export(str(checkpoint), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_where_the_model_cannot_be_loaded_nothing_is_left(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError):
        export(str(tmp_path / "model"), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_would_command_the_table_is_shown_as_it_is():
    assert cell("a|b <i>*c*\nd") == r"a\|b &lt;i&gt;\*c\* d"


def test_of_a_path_in_the_settings_the_last_part_is_told():
    settings = {"data": {"path": "/home/me/cats", "source": "local", "urls": ["~/x/y.tar", 3]}}
    assert without_places(settings) == {"data": {"path": "…/cats", "source": "local", "urls": ["…/y.tar", 3]}}
