import json
from pathlib import Path

import pytest
from conftest import SMALL

from captioning.errors import UserError
from captioning.run import train
from captioning.runs.run_folder import RunFolder
from captioning.training.callbacks.gallery import Gallery


@pytest.fixture
def run(compose, images, tmp_path) -> Path:
    """Two epochs, without wandb, the gallery of two images."""
    overrides = ["trainer.max_epochs=2", "callbacks.gallery.images=2", "data.val_fraction=0.3"]
    train(compose(*SMALL, f"data.path={images}", *overrides))
    return tmp_path / "run"


def lines_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "gallery.jsonl").read_text().splitlines()]


def test_the_same_images_are_shown_at_each_validation(run):
    by_step: dict[int, list[str]] = {}
    for line in lines_of(run):
        by_step.setdefault(line["step"], []).append(line["id"])
    assert len(by_step) == 2
    first, second = by_step.values()
    assert first == second
    assert len(first) == 2


def test_the_images_shown_are_of_the_validation_split_with_their_own_references(run, images):
    splits = json.loads((run / "splits.json").read_text())
    metadata = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    captions = {line["file_name"]: line["text"] for line in metadata}
    for line in lines_of(run):
        assert line["id"] in splits["val"]
        assert line["references"] in (captions[line["id"]], [captions[line["id"]]])


def test_the_images_shown_have_thumbnails(run):
    assert {("val", line["id"]) for line in lines_of(run)} <= RunFolder(run).thumbnails.keys()


def test_the_sanity_check_is_not_shown(compose, images, tmp_path):
    train(compose(*SMALL, f"data.path={images}", "trainer.num_sanity_val_steps=1"))
    assert 0 not in {line["step"] for line in lines_of(tmp_path / "run")}


def test_a_gallery_of_no_images_is_refused():
    with pytest.raises(UserError, match=r"callbacks\.gallery\.images must be at least 1, got 0"):
        Gallery(images=0)
