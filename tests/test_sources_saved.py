import datasets
import pytest
from PIL import Image

from captioning.data.rows import Columns
from captioning.data.sources.saved import is_saved, read_saved
from captioning.errors import UserError

RED = Image.new("RGB", (4, 4), "red")


def table(*texts: str, **more) -> datasets.Dataset:
    features = {"image": datasets.Image(), "text": datasets.Value("string")}
    features |= {name: datasets.Value("string") for name in more}
    columns = {"image": [RED] * len(texts), "text": list(texts), **more}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def test_a_saved_table_is_read(tmp_path):
    table("a cat", "a dog").save_to_disk(tmp_path / "mine")
    rows = read_saved(tmp_path / "mine").table
    assert list(zip(rows["id"], rows["captions"], rows["split"], strict=True)) == [
        ("mine-0000000", ["a cat"], None),
        ("mine-0000001", ["a dog"], None),
    ]


def test_the_splits_of_saved_tables_are_respected(tmp_path):
    datasets.DatasetDict(train=table("x"), validation=table("y"), test=table("z")).save_to_disk(tmp_path / "mine")
    rows = read_saved(tmp_path / "mine").table
    assert dict(zip(rows["id"], rows["split"], strict=True)) == {
        "train-0000000": "train",
        "validation-0000000": "val",
        "test-0000000": "test",
    }


def test_columns_of_a_saved_table_can_be_named(tmp_path):
    table("x", "y", who=["7", "8"]).save_to_disk(tmp_path / "mine")
    assert list(read_saved(tmp_path / "mine", columns=Columns(group="who")).table["group"]) == ["7", "8"]


@pytest.mark.parametrize("saved", [table("x"), datasets.DatasetDict(train=table("x"))], ids=["one", "several"])
def test_a_saved_data_set_is_told_by_its_files(tmp_path, saved):
    saved.save_to_disk(tmp_path / "mine")
    assert is_saved(tmp_path / "mine")
    assert not is_saved(tmp_path)


def test_a_damaged_data_set_is_refused_in_one_line(tmp_path):
    table("x").save_to_disk(tmp_path / "mine")
    (tmp_path / "mine" / "data-00000-of-00001.arrow").write_bytes(b"")
    with pytest.raises(UserError, match=r"data\.path=.*mine: can't be read as a saved data set \(.*\)$"):
        read_saved(tmp_path / "mine")


def test_a_file_that_a_saved_data_set_lacks_is_named(tmp_path):
    table("x").save_to_disk(tmp_path / "mine")
    (tmp_path / "mine" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match=r"\(No such file or directory: .*data-00000-of-00001\.arrow\)$"):
        read_saved(tmp_path / "mine")
