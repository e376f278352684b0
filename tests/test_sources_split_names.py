import pytest

from captioning.data.sources.split_names import split_of, splits_of_files


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("training", "train"),
        ("restval", "train"),
        ("val", "val"),
        ("Valid", "val"),
        ("VALIDATION ", "val"),
        ("dev", "val"),
        ("test", "test"),
        ("testA", None),
        ("unlabeled", None),
        (3, None),
        ("", None),
    ],
)
def test_the_usual_names_of_splits_are_known(name, split):
    assert split_of(name) == split


def test_a_subfolder_gives_the_split_of_its_files():
    names = ["data/train/x/a.png", "data/val/a.png", "data/a.png"]
    assert list(splits_of_files(names).values()) == ["train", "val", None]


def test_one_split_alone_is_none():
    assert list(splits_of_files(["train/a.png", "car/a.png"]).values()) == [None, None]


def test_the_name_of_a_file_counts_only_where_it_is_asked():
    names = ["train-00000-of-00001.parquet", "test_1.parquet", "my.dev.parquet"]
    assert list(splits_of_files(names).values()) == [None, None, None]
    assert list(splits_of_files(names, by_stem=True).values()) == ["train", "test", "val"]
