import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import datasets
import pytest
from PIL import Image

from captioning.data.images import decode, read_bytes
from captioning.data.rows import Columns
from captioning.data.sources.table import read_table
from captioning.errors import UserError

TEXT, BYTES = datasets.Value("string"), datasets.Value("binary")
STRUCT = {"bytes": BYTES, "path": TEXT}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a.png (red) and b.png (blue)."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "data"
    data.mkdir()
    Image.new("RGB", (4, 4), "red").save(data / "a.png")
    Image.new("RGB", (4, 4), "blue").save(data / "b.png")
    return data


def parquet(path: Path, features=None, **columns: Sequence[object]) -> Path:
    path.parent.mkdir(exist_ok=True)
    features = datasets.Features(features) if features else None
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    return path


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def captions(path: Path, **settings) -> dict[str, list[str]]:
    table = read_table(path, **settings).table
    return dict(zip(table["id"], table["captions"], strict=True))


def problems(path: Path, **settings) -> list[tuple[str, str]]:
    return sorted(map(tuple, read_table(path, **settings).problems))


def mistake(path: Path, **settings) -> str:
    with pytest.raises(UserError) as caught:
        read_table(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def digest(file: Path) -> str:
    return blake2b(file.read_bytes(), digest_size=16).hexdigest()


# ---------------------------------------------------------------- images by name


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_lines_about_the_same_image_are_one_row(folder, suffix):
    rows = [("a.png", "a cat"), ("b.png", "a dog"), ("a.png", "my cat")]
    path = folder / f"x.{suffix}"
    if suffix == "csv":
        csv(path, "image,caption\n" + "".join(f"{name},{text}\n" for name, text in rows))
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps({"image": name, "caption": text}) + "\n" for name, text in rows))
    else:
        parquet(path, image=[name for name, _ in rows], caption=[text for _, text in rows])
    assert captions(path) == {"a.png": ["a cat", "my cat"], "b.png": ["a dog"]}


def test_images_may_be_in_a_folder_of_their_own(folder):
    path = csv(folder.parent / "x.csv", "image,caption\na.png,a cat\n")
    assert read_table(path, images=folder).table[0]["image"] == {"bytes": None, "path": str(folder / "a.png")}


def test_an_address_stands_for_the_file_downloaded_from_it(folder):
    path = csv(folder / "x.csv", "url,caption\nhttps://example.org/1/a.png?x=1,a cat\n")
    assert captions(path) == {"a.png": ["a cat"]}


def test_two_addresses_with_one_file_name_leave_it_out(folder):
    path = csv(folder / "x.csv", "url,caption\nhttp://x.org/1/a.png,x\nhttp://x.org/2/a.png,y\nhttp://x.org/b.png,z\n")
    assert captions(path) == {"b.png": ["z"]}
    assert problems(path) == [("two addresses with one file name", "a.png (x.csv line 3)")]


def test_lines_with_one_id_are_one_row(folder):
    path = csv(folder / "x.csv", "image,caption,key\na.png,a cat,7\na.png,my cat,7\nb.png,a dog,8\n")
    assert captions(path, columns=Columns(id="key")) == {"7": ["a cat", "my cat"], "8": ["a dog"]}


def test_what_contradicts_itself_is_left_out_and_named(folder):
    path = csv(folder / "x.csv", "image,caption,key\na.png,a cat,7\nb.png,my cat,7\nb.png,a dog,8\n")
    assert captions(path, columns=Columns(id="key")) == {"8": ["a dog"]}
    assert problems(path, columns=Columns(id="key")) == [("one id with two images", "7 (x.csv line 3)")]


def test_numbered_columns_are_several_captions(folder):
    path = csv(folder / "x.csv", "image,caption_0,caption_1\na.png,a cat,my cat\nb.png,a dog,\n")
    assert captions(path) == {"a.png": ["a cat", "my cat"], "b.png": ["a dog"]}


def test_what_cannot_be_used_is_named_by_file_and_line(folder):
    path = csv(folder / "x.csv", "image,caption\na.png,a cat\n../x.png,x\ngone.png,x\nb.png,a, dog\n")
    assert [name for _, name in problems(path)] == [
        "x.csv line 5",
        "gone.png (x.csv line 4)",
        "../x.png (x.csv line 3)",
    ]


def test_rows_of_parquet_are_counted_from_0(folder):
    path = parquet(folder / "x.parquet", image=["a.png", "gone.png"], caption=["x", "y"])
    assert problems(path) == [("image is missing", "gone.png (x.parquet row 1)")]


# ---------------------------------------------------------------- images within


@pytest.mark.parametrize("kind", ["bytes", "struct", "Image"])
def test_images_may_be_within(folder, kind):
    encoded = (folder / "a.png").read_bytes()
    value = encoded if kind == "bytes" else {"bytes": encoded, "path": "whatever.png"}
    feature = {"bytes": BYTES, "struct": STRUCT, "Image": datasets.Image()}[kind]
    path = parquet(folder / "x.parquet", {"image": feature, "text": TEXT}, image=[value], text=["a cat"])
    row = read_table(path).table[0]
    assert row["captions"] == ["a cat"]
    assert decode(read_bytes(row["image"])).getpixel((0, 0)) == (255, 0, 0)


def test_images_within_are_known_by_their_content_and_put_together(folder):
    red, blue = ((folder / name).read_bytes() for name in ("a.png", "b.png"))
    path = parquet(folder / "x.parquet", image=[red, blue, red], text=["a cat", "a dog", "my cat"])
    assert captions(path) == {
        digest(folder / "a.png"): ["a cat", "my cat"],
        digest(folder / "b.png"): ["a dog"],
    }


def test_rows_of_images_within_are_the_same_in_any_order(folder):
    images = [(folder / name).read_bytes() for name in ("a.png", "b.png", "a.png")]
    columns = {"image": images, "text": ["a cat", "a dog", "A cat"]}
    one = parquet(folder / "1.parquet", **columns)
    other = parquet(folder / "2.parquet", **{name: values[::-1] for name, values in columns.items()})
    assert list(read_table(one).table) == list(read_table(other).table)


def test_a_struct_may_hold_a_path_in_place_of_bytes(folder):
    images = [{"bytes": None, "path": "a.png"}, {"bytes": (folder / "b.png").read_bytes(), "path": None}]
    images += [{"bytes": None, "path": "../x.png"}, {"bytes": None, "path": None}, None]
    path = parquet(folder / "x.parquet", {"image": STRUCT, "text": TEXT}, image=images, text=["x"] * 5)
    table = read_table(path).table
    colors = {decode(read_bytes(image)).getpixel((0, 0)) for image in table["image"]}
    assert colors == {(255, 0, 0), (0, 0, 255)}
    assert problems(path) == [
        ("image is missing", "x.parquet-0000003"),
        ("image is missing", "x.parquet-0000004"),
        ("image outside of the data folder", "../x.png (x.parquet row 2)"),
    ]


def test_files_of_a_folder_called_like_splits_give_the_split(folder):
    for number, name in enumerate(["train-00000-of-00001", "validation-0", "extra"]):
        parquet(folder / "data" / f"{name}.parquet", image=[bytes([number])], text=[name])
    table = read_table(folder / "data").table
    assert dict(zip((text for (text,) in table["captions"]), table["split"], strict=True)) == {
        "train-00000-of-00001": "train",
        "validation-0": "val",
        "extra": None,
    }


def test_rows_of_images_within_are_named_by_file_and_row(folder):
    for name, text in (("a", "x"), ("b", "")):
        parquet(folder / "data" / f"{name}.parquet", image=[name.encode()], text=[text])
    [(kind, name)] = problems(folder / "data")
    assert kind == "empty caption"
    assert name.endswith("(b.parquet row 0)")


def test_a_damaged_file_of_a_folder_is_named(folder):
    parquet(folder / "data" / "a.parquet", image=["a.png"], text=["x"])
    (folder / "data" / "b.parquet").write_bytes(b"PAR1")
    assert problems(folder / "data", images=folder) == [("file can't be read", "b.parquet")]


def test_a_link_out_of_a_folder_of_files_is_not_followed_and_named(folder):
    parquet(folder / "data" / "a.parquet", image=["a.png"], text=["x"])
    (folder / "data" / "b.parquet").symlink_to(parquet(folder / "b.parquet", image=["b.png"], text=["y"]))
    assert captions(folder / "data", images=folder) == {"a.png": ["x"]}
    assert problems(folder / "data", images=folder) == [("image outside of the data folder", "b.parquet")]


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": "imag"}, "data.image_column=imag: no such column in x.csv; did you mean image?"),
        ({"caption": "captoin"}, "data.caption_column=captoin: no such column in x.csv; did you mean caption?"),
        ({"id": "ids"}, "data.id_column=ids: no such column in x.csv"),
        ({"split": "fold"}, "data.split_column=fold: no such column in x.csv"),
        ({"group": "grp"}, "data.group_column=grp: no such column in x.csv"),
        ({"stratify": "knd"}, "data.stratify_column=knd: no such column in x.csv; did you mean kind?"),
    ],
)
def test_a_wrong_column_is_answered_with_its_setting(folder, columns, expected):
    path = csv(folder / "x.csv", "image,caption,kind\na.png,x,y\n")
    assert expected in mistake(path, columns=Columns(**columns))


def test_a_table_without_a_usable_line_says_where_images_were_looked_for(folder):
    path = csv(folder / "x.csv", "image,caption\nc.png,x\n")
    assert mistake(path) == (
        f"data.path={path}: none of its 1 images can be used: 1 x image is missing: c.png (x.csv line 2). Images "
        f"were looked for as NAME in {folder}; data.images=FOLDER names another folder"
    )


def test_a_column_that_holds_no_images_is_named(folder):
    path = parquet(folder / "x.parquet", {"image": {"x": TEXT}, "text": TEXT}, image=[{"x": "y"}], text=["z"])
    assert "data.image_column=image: x.parquet has {'x': Value('string')} there, no images" in mistake(path)
