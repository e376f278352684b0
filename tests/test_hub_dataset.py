import json
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants
from PIL import Image

from captioning.data.check import check_pictures
from captioning.data.hub_dataset import read_hub
from captioning.data.pictures import decode, read_bytes
from captioning.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT, PICTURE = datasets.Value("string"), datasets.Image()
RED, GREEN, BLUE = (Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue"))


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """The folder of user/name in a cache of the Hub, which can't be reached."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    folder = tmp_path / "hub" / "datasets--user--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    return folder / "snapshots" / COMMIT


def write(repository: Path, split: str = "train", folder: str = "data", features=None, **columns) -> None:
    """A split as most data sets of the Hub have it: a parquet file."""
    features = datasets.Features(features or {"image": PICTURE, "text": TEXT})
    (repository / folder).mkdir(exist_ok=True)
    file = repository / folder / f"{split}-00000-of-00001.parquet"
    datasets.Dataset.from_dict(columns, features=features).to_parquet(file)


def captions(**settings) -> dict[str, list[str]]:
    table = read_hub("user/name", **settings).table
    return dict(zip(table["id"], table["captions"], strict=True))


def mistake(name: str = "user/name", **settings) -> str:
    with pytest.raises(UserError) as caught:
        read_hub(name, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_row_is_a_picture_with_its_caption(repository):
    write(repository, image=[RED, BLUE], text=["a red one", "  a blue\none "])
    assert captions() == {"train-0000000": ["a red one"], "train-0000001": ["a blue one"]}


def test_pictures_are_those_of_the_repository(repository):
    write(repository, image=[RED, BLUE], text=["x", "y"])
    colours = [decode(read_bytes(image)).getpixel((0, 0)) for image in read_hub("user/name").table["image"]]
    assert colours == [(255, 0, 0), (0, 0, 255)]


def test_a_list_of_captions(repository):
    features = {"image": PICTURE, "captions": datasets.List(TEXT)}
    write(repository, features=features, image=[RED], captions=[["red", None, "", "a red one"]])
    assert captions() == {"train-0000000": ["red", "a red one"]}


def test_columns_of_other_names_can_be_given(repository):
    # "id" and "captions" are names that the rows have too.
    write(repository, features={"id": PICTURE, "alt": TEXT, "captions": TEXT}, id=[RED], alt=["x"], captions=["no"])
    assert captions(image_column="id", caption_column="alt") == {"train-0000000": ["x"]}


@pytest.mark.parametrize("column", ["text", "caption", "captions"])
def test_the_usual_names_of_the_caption_column_are_known(repository, column):
    write(repository, features={"image": PICTURE, column: TEXT}, image=[RED], **{column: ["x"]})
    assert captions() == {"train-0000000": ["x"]}


def test_further_columns_are_left_where_they_are(repository):
    features = {"image": PICTURE, "text": TEXT, "url": TEXT}
    write(repository, features=features, image=[RED], text=["x"], url=["http://example.org"])
    assert set(read_hub("user/name").table.column_names) == {"id", "image", "captions", "split"}


def test_the_splits_of_the_repository_are_respected(repository):
    write(repository, "train", image=[RED, RED], text=["a", "b"])
    write(repository, "validation", image=[GREEN], text=["c"])
    write(repository, "test", image=[BLUE], text=["d"])
    table = read_hub("user/name").table
    assert dict(zip(table["id"], table["split"], strict=True)) == {
        "train-0000000": "train",
        "train-0000001": "train",
        "validation-0000000": "val",
        "test-0000000": "test",
    }


def test_a_folder_of_pictures_is_a_data_set_too(repository):
    (repository / "train").mkdir()
    RED.save(repository / "train" / "a.png")
    (repository / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "x"}))
    assert captions() == {"train-0000000": ["x"]}


def test_a_subset_is_read_alone(repository):
    write(repository, folder="en", image=[RED], text=["red"])
    write(repository, folder="fr", image=[RED], text=["rouge"])
    card = "configs: [{config_name: en, data_files: en/*}, {config_name: fr, data_files: fr/*}]"
    (repository / "README.md").write_text(f"---\n{card}\n---\n")
    assert captions(subset="fr") == {"train-0000000": ["rouge"]}


def test_rows_without_a_caption_are_left_out_by_name(repository):
    write(repository, image=[RED, GREEN, BLUE], text=["", "x", None])
    rows = read_hub("user/name")
    assert rows.ids == ["train-0000001"]
    assert rows.problems == (("empty caption", "train-0000000"), ("empty caption", "train-0000002"))


def test_rows_without_a_picture_are_left_out_by_name(repository):
    write(repository, image=[RED, None], text=["x", "y"])
    rows = check_pictures(read_hub("user/name")).rows
    assert rows.ids == ["train-0000000"]
    assert [problem.name for problem in rows.problems] == ["train-0000001"]


@pytest.mark.parametrize(
    ("features", "columns", "settings", "expected"),
    [
        pytest.param(
            {"img": PICTURE, "text": TEXT},
            {"img": [RED], "text": ["x"]},
            {},
            "data.image_column=image: no such column in user/name (train); did you mean img?",
            id="no column of pictures",
        ),
        pytest.param(
            {"image": PICTURE, "txt": TEXT},
            {"image": [RED], "txt": ["x"]},
            {},
            "data.caption_column=text: no such column in user/name (train); did you mean txt?",
            id="no column of captions",
        ),
        pytest.param(
            {"image": PICTURE, "text": TEXT},
            {"image": [RED], "text": ["x"]},
            {"caption_column": "prompt"},
            "data.caption_column=prompt: no such column in user/name (train); there are: image, text",
            id="wrong column given",
        ),
        pytest.param(
            {"image": TEXT, "text": TEXT},
            {"image": ["http://example.org/a.png"], "text": ["x"]},
            {},
            "data.image_column=image: user/name (train) has Value('string') there, no pictures",
            id="addresses for pictures",
        ),
        pytest.param(
            {"image": PICTURE, "text": datasets.ClassLabel(names=["cat", "dog"])},
            {"image": [RED], "text": [1]},
            {},
            "data.caption_column: user/name (train) holds 1; a caption is text",
            id="classes for captions",
        ),
        pytest.param(
            {"image": PICTURE, "text": TEXT},
            {"image": [RED, RED], "text": ["", None]},
            {},
            "data.path=user/name: none of its 2 pictures has a caption",
            id="no captions",
        ),
        pytest.param(
            {"image": PICTURE, "text": TEXT},
            {"image": [RED], "text": ["x"]},
            {"subset": "fr"},
            "data.subset=fr (BuilderConfig 'fr' not found. Available: ['default'])",
            id="no such subset",
        ),
    ],
)
def test_a_mistake_is_answered_with_the_setting_and_what_there_is(repository, features, columns, settings, expected):
    write(repository, features=features, **columns)
    assert expected in mistake(**settings)


def test_several_subsets_and_none_named_are_listed(repository):
    write(repository, folder="en", image=[RED], text=["red"])
    card = "configs: [{config_name: en, data_files: en/*}, {config_name: fr, data_files: en/*}]"
    (repository / "README.md").write_text(f"---\n{card}\n---\n")
    message = mistake()
    assert "data.subset=null" in message
    assert "['en', 'fr']" in message


def test_a_repository_without_data_is_named(repository):
    assert mistake().startswith("data.path=user/name: can't be read as a data set")


def test_of_a_damaged_file_the_cause_is_said(repository):
    (repository / "train.jsonl").write_text('{"text": "x"}\n{oops')
    assert "JSON parse error" in mistake()


def test_an_odd_split_is_named_with_the_usual_ones(repository):
    write(repository, "restval", image=[RED], text=["x"])
    assert mistake().startswith("user/name (restval): split 'restval' is none of train,")


def test_a_data_set_that_cannot_be_had_is_answered_with_what_would_do(repository):
    message = mistake("user/other")
    assert message.startswith("data.path=user/other: is not in the local cache")
    assert message.endswith("or the embedded data=creatures")
