import json
import zipfile
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants
from PIL import Image

from captioning.data.images import decode, read_bytes
from captioning.data.rows import Columns, row_features
from captioning.data.sources.hub import read_hub
from captioning.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT, IMAGE = datasets.Value("string"), datasets.Image()
RED, GREEN, BLUE = (Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue"))


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


def write(repository: Path, part: str = "train", folder: str = "data", features=None, **columns) -> None:
    """A split as most data sets of the Hub have it: a parquet file."""
    features = datasets.Features(features or {"image": IMAGE, "text": TEXT})
    (repository / folder).mkdir(exist_ok=True)
    file = repository / folder / f"{part}-00000-of-00001.parquet"
    datasets.Dataset.from_dict(columns, features=features).to_parquet(file)


def captions(**settings) -> dict[str, list[str]]:
    table = read_hub("user/name", **settings).table
    return dict(zip(table["id"], table["captions"], strict=True))


def mistake(name: str = "user/name", **settings) -> str:
    with pytest.raises(UserError) as caught:
        read_hub(name, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_row_is_a_image_with_its_caption(repository):
    write(repository, image=[RED, BLUE], text=["a red one", "  a blue\none "])
    assert captions() == {"train-0000000": ["a red one"], "train-0000001": ["a blue one"]}


def test_images_are_those_of_the_repository(repository):
    write(repository, image=[RED, BLUE], text=["x", "y"])
    colors = [decode(read_bytes(image)).getpixel((0, 0)) for image in read_hub("user/name").table["image"]]
    assert colors == [(255, 0, 0), (0, 0, 255)]


def test_a_list_of_captions(repository):
    features = {"image": IMAGE, "captions": datasets.List(TEXT)}
    write(repository, features=features, image=[RED], captions=[["red", None, "", "a red one"]])
    assert captions() == {"train-0000000": ["red", "a red one"]}


def test_columns_of_other_names_can_be_given(repository):
    # "id" and "captions" are names that the rows have too.
    write(repository, features={"id": IMAGE, "alt": TEXT, "captions": TEXT}, id=[RED], alt=["x"], captions=["no"])
    assert captions(columns=Columns(image="id", caption="alt")) == {"train-0000000": ["x"]}


@pytest.mark.parametrize("column", ["text", "caption", "captions"])
def test_the_usual_names_of_the_caption_column_are_known(repository, column):
    write(repository, features={"image": IMAGE, column: TEXT}, image=[RED], **{column: ["x"]})
    assert captions() == {"train-0000000": ["x"]}


def test_further_columns_are_left_where_they_are(repository):
    features = {"image": IMAGE, "text": TEXT, "url": TEXT}
    write(repository, features=features, image=[RED], text=["x"], url=["http://example.org"])
    assert set(read_hub("user/name").table.column_names) == set(row_features())


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


def test_a_folder_of_images_is_a_data_set_too(repository):
    (repository / "train").mkdir()
    RED.save(repository / "train" / "a.png")
    (repository / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "x"}))
    assert captions() == {"train-0000000": ["x"]}


def test_images_in_an_archive_are_named_with_what_to_do(repository, tmp_path):
    RED.save(tmp_path / "a.png")
    with zipfile.ZipFile(repository / "train.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
        archive.writestr("metadata.jsonl", json.dumps({"file_name": "a.png", "text": "x"}))
    assert "1 x image in an archive, which must be unpacked first: zip://a.png::" in mistake()


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
    assert rows.issues == (("empty caption", "train-0000000"), ("empty caption", "train-0000002"))


def test_rows_without_a_image_are_left_out_by_name(repository):
    write(repository, image=[RED, None], text=["x", "y"])
    rows = read_hub("user/name")
    assert rows.ids == ["train-0000000"]
    assert rows.issues == (("caption without an image", "train-0000001"),)


def test_the_one_column_of_images_is_found_whatever_its_name(repository):
    write(repository, features={"jpg": IMAGE, "text": TEXT}, jpg=[RED], text=["x"])
    assert captions() == {"train-0000000": ["x"]}


@pytest.mark.parametrize("column", [None, "caption", "caption_*"])
def test_numbered_columns_are_several_captions(repository, column):
    features = {"image": IMAGE, "caption_0": TEXT, "caption_10": TEXT, "caption_9": TEXT}
    write(repository, features=features, image=[RED], caption_0=["x"], caption_9=["y"], caption_10=["z"])
    assert captions(columns=Columns(caption=column)) == {"train-0000000": ["x", "y", "z"]}


def test_rows_with_one_id_are_one_image_with_several_captions(repository):
    features = {"image": IMAGE, "text": TEXT, "key": datasets.Value("int64")}
    write(repository, features=features, image=[RED, BLUE, RED], text=["b", "c", "a"], key=[7, 8, 7])
    assert captions(columns=Columns(id="key")) == {"7": ["a", "b"], "8": ["c"]}


def test_one_id_of_two_images_or_splits_is_left_out_and_named(repository):
    features = {"image": IMAGE, "text": TEXT, "key": TEXT}
    write(repository, features=features, image=[RED, BLUE, GREEN, RED], text=["x"] * 4, key=["a", "a", "b", "c"])
    write(repository, "test", features=features, image=[GREEN], text=["x"], key=["b"])
    rows = read_hub("user/name", columns=Columns(id="key"))
    assert rows.ids == ["c"]
    assert set(rows.issues) == {
        ("one id with two images", "a (train-0000001)"),
        ("image in two splits", "b (test-0000000)"),
    }


def test_a_row_without_an_id_is_left_out_and_named(repository):
    features = {"image": IMAGE, "text": TEXT, "key": TEXT}
    write(repository, features=features, image=[RED, BLUE], text=["x", "y"], key=["a", None])
    rows = read_hub("user/name", columns=Columns(id="key"))
    assert rows.ids == ["a"]
    assert rows.issues == (("id is missing", "train-0000001"),)


def test_a_column_of_splits_goes_before_the_hubs_own(repository):
    features = {"image": IMAGE, "text": TEXT, "split": TEXT}
    write(
        repository, "test", features=features, image=[RED] * 4, text=["x"] * 4, split=["train", "restval", "val", None]
    )
    assert list(read_hub("user/name").table["split"]) == ["train", "train", "val", "test"]


def test_rows_of_a_split_of_another_name_are_left_out_and_named(repository):
    write(repository, image=[RED], text=["x"])
    write(repository, "extra", image=[BLUE], text=["y"])
    rows = read_hub("user/name")
    assert rows.ids == ["train-0000000"]
    assert rows.issues == (("unknown split 'extra'", "extra-0000000"),)


def test_classes_are_known_by_their_names(repository):
    features = {"image": IMAGE, "text": TEXT, "kind": datasets.ClassLabel(names=["cat", "dog"])}
    write(repository, features=features, image=[RED, BLUE], text=["x", "y"], kind=[1, None])
    assert list(read_hub("user/name", columns=Columns(stratify="kind")).table["stratum"]) == ["dog", None]


def test_images_are_not_read_into_memory(repository):
    write(repository, image=[RED, BLUE], text=["x", ""])
    table = read_hub("user/name").table
    assert any(file["filename"].endswith(".arrow") for file in table.cache_files)


def test_images_may_be_files_of_the_repository_that_rows_name(repository):
    features = {"image": TEXT, "text": TEXT}
    (repository / "files").mkdir()
    RED.save(repository / "files" / "a.png")
    write(repository, features=features, image=["files/a.png", "../../refs/main"], text=["x", "y"])
    rows = read_hub("user/name")
    assert [read_bytes(image) for image in rows.table["image"]] == [(repository / "files" / "a.png").read_bytes()]
    assert rows.issues == (("image outside of the data folder", "../../refs/main (train-0000001)"),)


@pytest.mark.parametrize(
    ("features", "columns", "settings", "expected"),
    [
        pytest.param(
            {"img": TEXT, "text": TEXT},
            {"img": ["http://example.org/a.png"], "text": ["x"]},
            {},
            "data.path=user/name: none of its 1 images can be used: 1 x image is missing: http://example.org/a.png",
            id="addresses for images",
        ),
        pytest.param(
            {"image": IMAGE, "txt": TEXT},
            {"image": [RED], "txt": ["x"]},
            {},
            "data.caption_column=text: no such column in train; did you mean txt?",
            id="no column of captions",
        ),
        pytest.param(
            {"image": IMAGE, "text": TEXT},
            {"image": [RED], "text": ["x"]},
            {"columns": Columns(caption="prompt")},
            "data.caption_column=prompt: no such column in train; there are: image, text",
            id="wrong column given",
        ),
        pytest.param(
            {"image": datasets.List(IMAGE), "text": TEXT},
            {"image": [[RED]], "text": ["x"]},
            {},
            "data.image_column=image: train has List(Image(",
            id="lists of images",
        ),
        pytest.param(
            {"image": IMAGE, "text": datasets.Value("int64")},
            {"image": [RED], "text": [1]},
            {},
            "1 x caption isn't text: train-0000000",
            id="numbers for captions",
        ),
        pytest.param(
            {"image": IMAGE, "text": TEXT},
            {"image": [RED, RED], "text": ["", None]},
            {},
            "data.path=user/name: none of its 2 images can be used: 2 x empty caption: train-0000000, train-0000001",
            id="no captions",
        ),
        pytest.param(
            {"image": IMAGE, "text": TEXT},
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


def test_a_revision_is_read_and_no_other(repository):
    write(repository, image=[RED], text=["new"])
    (repository.parents[1] / "refs" / "old").write_text("f" * 40)
    older = repository.parent / ("f" * 40)
    older.mkdir()
    write(older, image=[RED], text=["old"])
    assert captions(revision="old") == {"train-0000000": ["old"]}
    assert mistake(revision="v9").startswith("data.path=user/name (revision v9): is not in the local cache")


def test_a_data_set_that_cannot_be_had_is_answered_with_what_would_do(repository):
    message = mistake("user/other")
    assert message.startswith("data.path=user/other: is not in the local cache")
    assert message.endswith("or the embedded data=creatures")
