import json
from pathlib import Path

import pytest
from PIL import Image

from captioning.data.rows import USUAL, Columns, Rows
from captioning.data.sources import read_local
from captioning.errors import UserError


@pytest.fixture
def written(tmp_path):
    """Write images by name, and a JSON file; returns its path."""

    def write(content: object, *images: str) -> Path:
        for name in images:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), "red").save(tmp_path / name)
        file = tmp_path / "captions.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return write


def coco(images: dict[object, str], *annotations: tuple[object, object]) -> dict[str, object]:
    return {
        "info": {},
        "images": [{"id": number, "file_name": name} for number, name in images.items()],
        "annotations": [
            {"id": number, "image_id": image, "caption": caption} for number, (image, caption) in enumerate(annotations)
        ],
    }


def karpathy(name: str, split: str, *sentences: str, **more: object) -> dict[str, object]:
    return {"filename": name, "split": split, "sentences": [{"raw": raw, "tokens": []} for raw in sentences], **more}


def read(path: Path, *, images: Path | None = None, columns: Columns = USUAL) -> Rows:
    return read_local(str(path), images=images and str(images), columns=columns)


def captions(path: Path, **settings) -> dict[str, list[str]]:
    table = read(path, **settings).table
    return dict(zip(table["id"], table["captions"], strict=True))


def issues(path: Path, **settings) -> list[tuple[str, str]]:
    return sorted(map(tuple, read(path, **settings).issues))


def mistake(path: Path, **settings) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- COCO


def test_the_annotations_of_an_image_are_its_captions(written):
    content = coco({7: "a.png", 8: "b.png"}, (7, "a cat "), (8, "a dog"), (7, "A cat"))
    assert captions(written(content, "a.png", "b.png")) == {"a.png": ["a cat", "A cat"], "b.png": ["a dog"]}


def test_rows_are_the_same_however_images_and_annotations_are_ordered(written):
    content = coco({7: "a.png", 8: "b.png"}, (7, "a cat"), (8, "a dog"), (7, "A cat"))
    before = list(read(written(content, "a.png", "b.png")).table)
    content["images"].reverse()
    content["annotations"].reverse()
    assert list(read(written(content)).table) == before


def test_ids_of_images_may_be_numbers_here_and_text_there(written):
    assert captions(written(coco({7: "a.png"}, ("7", "a cat")), "a.png")) == {"a.png": ["a cat"]}


@pytest.mark.parametrize("folder", ["train2014", "val2014", "train2017", "val2017"])
def test_images_are_looked_for_in_cocos_own_folders(written, folder):
    path = written(coco({7: "a.png"}, (7, "a cat")), f"{folder}/a.png")
    assert captions(path) == {f"{folder}/a.png": ["a cat"]}


def test_images_may_be_in_a_folder_of_their_own(written):
    path = written(coco({7: "a.png"}, (7, "a cat")), "elsewhere/a.png")
    assert captions(path, images=path.parent / "elsewhere") == {"a.png": ["a cat"]}


def test_columns_of_images_can_be_named(written):
    content = coco({7: "a.png"}, (7, "a cat"))
    content["images"][0] |= {"flickr": 3, "kind": "x"}
    row = read(written(content, "a.png"), columns=Columns(id="id", group="flickr", stratify="kind")).table[0]
    assert (row["id"], row["group"], row["stratum"]) == ("7", "3", "x")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(
            coco({7: "a.png"}, (7, "x"), (9, "y")),
            [("caption without an image", "captions.json annotations[1]: no image has the id 9")],
            id="no such image",
        ),
        pytest.param(
            coco({7: "a.png", 8: "b.png"}, (7, "x")),
            [("image without a caption", "b.png (captions.json images[1])")],
            id="no annotation",
        ),
        pytest.param(
            coco({7: "a.png", 8: "c.png"}, (7, "x"), (8, "y")),
            [("image is missing", "c.png (captions.json images[1])")],
            id="no such file",
        ),
        pytest.param(
            coco({7: "a.png", 8: "b.png"}, (7, "x"), (8, 3)),
            [("caption isn't text", "b.png (captions.json images[1])")],
            id="number for a caption",
        ),
        pytest.param(
            coco({7: "a.png", 8: "../b.png"}, (7, "x"), (8, "y")),
            [("image outside of the data folder", "../b.png (captions.json images[1])")],
            id="outside",
        ),
    ],
)
def test_what_is_left_out_is_named(written, content, expected):
    path = written(content, "a.png", "b.png")
    assert captions(path) == {"a.png": ["x"]}
    assert issues(path) == expected


def test_one_id_of_two_images_leaves_both_out(written):
    content = coco({7: "a.png", 8: "b.png"}, (7, "x"), (8, "y"))
    content["images"].append({"id": 8, "file_name": "c.png"})
    path = written(content, "a.png", "b.png", "c.png")
    assert captions(path) == {"a.png": ["x"]}
    assert issues(path) == [("one id with two images", "8 (captions.json images[2])")]


def test_items_that_are_no_objects_are_named(written):
    content = coco({7: "a.png"}, (7, "x"))
    content["images"].append("b.png")
    content["annotations"].append(None)
    assert issues(written(content, "a.png")) == [
        ("item isn't a JSON object", "captions.json annotations[1]"),
        ("item isn't a JSON object", "captions.json images[1]"),
    ]


# ---------------------------------------------------------------- Karpathy's splits


def test_karpathys_sentences_are_captions_and_restval_is_trained_on(written):
    content = {
        "images": [
            karpathy("a.png", "restval", "a cat", "my cat", cocoid=7),
            karpathy("b.png", "val", "a dog"),
            karpathy("c.png", "test", "a fox"),
        ]
    }
    table = read(written(content, "a.png", "b.png", "c.png")).table
    assert list(zip(table["id"], table["captions"], table["split"], strict=True)) == [
        ("a.png", ["a cat", "my cat"], "train"),
        ("b.png", ["a dog"], "val"),
        ("c.png", ["a fox"], "test"),
    ]


def test_karpathys_filepath_is_the_folder_of_a_image(written):
    content = {"images": [karpathy("a.png", "train", "a cat", filepath="some/where")]}
    assert captions(written(content, "some/where/a.png")) == {"some/where/a.png": ["a cat"]}


def test_karpathys_filepath_cannot_lead_out(written):
    content = {"images": [karpathy("a.png", "train", "a cat"), karpathy("b.png", "train", "x", filepath="../away")]}
    path = written(content, "data/a.png", "away/b.png")
    assert captions(path, images=path.parent / "data") == {"a.png": ["a cat"]}


def test_an_image_without_sentences_is_named(written):
    content = {"images": [karpathy("a.png", "train", "a cat"), karpathy("b.png", "train"), {"filename": "b.png"}]}
    assert issues(written(content, "a.png", "b.png")) == [
        ("empty caption", "b.png (captions.json images[1])"),
        ("empty caption", "b.png (captions.json images[2])"),
    ]


# ---------------------------------------------------------------- a list of objects


def test_a_list_of_objects_is_read_as_a_table(written):
    content = [{"image": "a.png", "caption": "a cat"}, {"image": "a.png", "caption": "my cat"}, 3]
    path = written(content, "a.png")
    assert captions(path) == {"a.png": ["a cat", "my cat"]}
    assert issues(path) == [("item isn't a JSON object", "captions.json item 3")]


def test_json_lines_are_read_whatever_the_file_is_called(written):
    assert captions(written('{"image": "a.png", "text": "a cat"}\n{"image": "a.png", "text": "x"}', "a.png")) == {
        "a.png": ["a cat", "x"]
    }


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"images": [{"id": 1', "not JSON (Expecting ',' delimiter: line 1 column 21 (char 20)); is the file"),
        ("[" * 100_000, "not JSON"),
        ("", "not JSON"),
        ("{}", "neither COCO's captions"),
        ({"images": 3, "annotations": []}, "neither COCO's captions"),
        ({"images": []}, "neither COCO's captions"),
        ("null", "neither COCO's captions"),
        (
            {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "bbox": []}]},
            "captions_*.json",
        ),
        (coco({7: "a.png"}), "1 x image without a caption: a.png"),
        (coco({7: "x.png"}, (7, "x")), "looked for as NAME or train2014/NAME or val2014/NAME or"),
        ([], "no captions in it"),
        ([{"text": "x"}], "data.image_column=file_name: no such column in captions.json"),
    ],
)
def test_a_mistake_is_answered_with_what_and_where(written, content, expected):
    assert expected in mistake(written(content, "a.png"))


def test_a_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "x.json").write_bytes('["café"]'.encode("latin-1"))
    assert "x.json: not UTF-8 text" in mistake(tmp_path / "x.json")


def test_a_wrong_column_is_answered_with_the_nearest(written):
    path = written(coco({7: "a.png"}, (7, "x")), "a.png")
    assert "data.image_column=filename: no such column in captions.json; did you mean file_name?" in mistake(
        path, columns=Columns(image="filename")
    )
