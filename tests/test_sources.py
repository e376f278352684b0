import io
import json
import tarfile

import datasets
import pytest
from PIL import Image

from captioning.data.sources import read_local
from captioning.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a.png."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "data"
    data.mkdir()
    Image.new("RGB", (4, 4), "red").save(data / "a.png")
    return data


COCO = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}
KARPATHY = {"images": [{"filename": "a.png", "split": "train", "sentences": [{"raw": "a cat"}]}]}
FILES = {
    "coco.json": json.dumps(COCO),
    "karpathy.json": json.dumps(KARPATHY),
    "list.json": '[{"image": "a.png", "text": "a cat"}]',
    "x.jsonl": '{"image": "a.png", "text": "a cat"}',
    "x.CSV": "image,text\na.png,a cat",
    "x.tsv": "image\ttext\na.png\ta cat",
    "metadata.jsonl": '{"file_name": "a.png", "text": "a cat"}',
    "a.txt": "a cat",
}


def write_tar(file, mode="w"):
    with tarfile.open(file, mode) as tar:
        for name, content in (("a.png", (file.parent / "a.png").read_bytes()), ("a.txt", b"a cat")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def captions(path, **settings):
    return [list(each) for each in read_local(str(path), **settings).captions]


def mistake(path, **settings):
    with pytest.raises(UserError) as caught:
        read_local(str(path), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_the_shape_of_a_file_is_told_by_what_is_in_it(folder, name):
    (folder / name).write_text(FILES[name])
    if name != "a.txt":
        assert captions(folder / name) == [["a cat"]]


@pytest.mark.parametrize("name", ["metadata.jsonl", "a.txt"])
def test_the_shape_of_a_folder_is_told_by_what_is_in_it(folder, name):
    (folder / name).write_text(FILES[name])
    assert captions(folder) == [["a cat"]]


def test_a_parquet_file_or_a_folder_of_them_is_read(folder):
    datasets.Dataset.from_dict({"image": ["a.png"], "text": ["a cat"]}).to_parquet(folder / "x.parquet")
    assert captions(folder / "x.parquet") == captions(folder) == [["a cat"]]


def test_a_saved_data_set_is_read(folder):
    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
    columns = {"image": [Image.open(folder / "a.png")], "text": ["a cat"]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(folder / "saved")
    assert captions(folder / "saved") == [["a cat"]]


@pytest.mark.parametrize("path", ["x0.tar", "x{0..0}.tar", ""], ids=["a shard", "a brace pattern", "a folder"])
def test_tar_shards_are_read(folder, path):
    write_tar(folder / "x0.tar")
    assert captions(folder / path) == [["a cat"]]


@pytest.mark.parametrize("name", ["x.tgz", "x.tar.gz", "x.tar.xz"])
def test_compressed_tar_shards_are_read(folder, name):
    write_tar(folder / name, "w:xz" if name.endswith("xz") else "w:gz")
    assert captions(folder / name) == captions(folder) == [["a cat"]]


def test_the_output_of_a_command_is_read(folder):
    write_tar(folder / "x.tar")
    assert captions(f"pipe:true {'long ' * 100}; cat {folder / 'x.tar'}") == [["a cat"]]


def test_a_pattern_may_be_longer_than_the_name_of_a_file(folder):
    write_tar(folder / "x0.tar")
    assert captions(folder / f"{{{','.join(['x0'] * 100)}}}.tar") == [["a cat"]]


def test_an_address_may_end_in_a_password():
    message = mistake("http://127.0.0.1:1/x.tar?token=secret")
    assert "no captioned image in its 1 shards: 1 x shard can't be read to its end" in message


def test_an_archive_beside_its_images_and_their_captions_is_not_data(folder):
    write_tar(folder / "images.tar.gz", "w:gz")
    (folder / "a.txt").write_text("a dog")
    assert captions(folder) == [["a dog"]]


def test_images_may_be_in_another_folder(folder):
    (folder.parent / "x.csv").write_text(FILES["x.CSV"])
    assert captions(folder.parent / "x.csv", images=str(folder)) == [["a cat"]]


def test_a_path_may_begin_at_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "x.csv").write_text(FILES["x.CSV"])
    assert captions("~/x.csv", images="~") == [["a cat"]]


def test_a_folder_without_captions_says_what_was_looked_for(folder):
    message = mistake(folder)
    assert message.startswith(f"data.path={folder}: no captions in this folder (looked for metadata.jsonl,")
    assert "NAME.txt" in message


def test_a_folder_with_one_file_of_captions_names_it(folder):
    (folder / "coco.json").write_text(FILES["coco.json"])
    assert mistake(folder).endswith(f"to read one file, name it: data.path={folder / 'coco.json'}")


def test_what_is_not_there_is_named(folder):
    assert mistake(folder / "gone").startswith(f"data.path={folder / 'gone'}: no such folder or file")


def test_a_file_of_another_kind_says_what_is_read(folder):
    assert mistake(folder / "a.png").startswith(f"data.path={folder / 'a.png'}: no file of captions (.json, .csv,")


def test_a_folder_of_images_that_is_not_there_is_named(folder):
    assert mistake(folder, images="/gone") == "data.images=/gone: no such folder; it must hold the images"
