import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from captioning import CaptionDataModule
from captioning.errors import UserError


def data_of(folder: Path, checkpoint: Path, **settings: object) -> CaptionDataModule:
    data = CaptionDataModule(path=str(folder), processor=str(checkpoint), batch_size=4, num_workers=0, **settings)
    data.setup()
    return data


@pytest.fixture(scope="module")
def hundred(tmp_path_factory) -> Path:
    """A hundred pictures, the first half of them for training by their own word, the rest for validation and test."""
    folder = tmp_path_factory.mktemp("hundred")
    lines = []
    for number in range(100):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:02}.png")
        split = "train" if number < 50 else "val" if number < 75 else "test"
        lines.append({"file_name": f"{number:02}.png", "text": "a red square", "split": split})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def names(data: CaptionDataModule) -> set[str]:
    return {name for ids in data.split_ids.values() for name in ids}


def test_a_limit_takes_a_sample_in_which_each_split_has_its_share(hundred, checkpoint):
    sizes = {split: len(ids) for split, ids in data_of(hundred, checkpoint, limit=40).split_ids.items()}
    assert sum(sizes.values()) == 40
    assert 15 <= sizes["train"] <= 25
    assert min(sizes["val"], sizes["test"]) >= 5


def test_a_larger_limit_holds_every_smaller_one(hundred, checkpoint):
    few, more = (names(data_of(hundred, checkpoint, limit=limit)) for limit in (30, 60))
    assert few < more


def test_a_limit_above_the_number_of_pictures_changes_nothing(hundred, checkpoint):
    assert names(data_of(hundred, checkpoint, limit=1000)) == names(data_of(hundred, checkpoint))


def test_loading_draws_nothing_from_the_generator_that_dropout_draws_from(hundred, checkpoint):
    data = data_of(hundred, checkpoint)
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_test_can_be_on_any_split(hundred, checkpoint):
    data = data_of(hundred, checkpoint)
    data.test_on("val")
    tested = [name for batch in data.test_dataloader() for name in batch["id"]]
    assert tested == data.split_ids["val"]


def test_a_test_on_training_pictures_visits_them_in_order_with_their_first_captions(pictures, checkpoint):
    data = data_of(pictures, checkpoint)
    data.test_on("train")
    tested = [name for batch in data.test_dataloader() for name in batch["id"]]
    assert tested == data.split_ids["train"]


def test_a_test_on_all_pictures_needs_no_split(hundred, checkpoint):
    data = CaptionDataModule(path=str(hundred), processor=str(checkpoint), limit=1)
    data.test_on("all")
    data.setup()
    assert [len(ids) for ids in data.split_ids.values()] == [1]


def test_no_such_split_is_answered_with_the_nearest(hundred, checkpoint):
    with pytest.raises(UserError, match=r"^split=tets: no such split; did you mean test\?"):
        data_of(hundred, checkpoint).test_on("tets")
