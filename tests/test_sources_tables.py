import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import datasets
import pytest
from PIL import Image

from captioning.data.images import decode, read_bytes
from captioning.data.rows import USUAL, Columns, RawRow, RowIssue, Rows
from captioning.data.sources import read_local
from captioning.data.sources.tables import read_table
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
    assert read(path, images=folder).table[0]["image"] == {"bytes": None, "path": str(folder / "a.png")}


def test_an_address_stands_for_the_file_downloaded_from_it(folder):
    path = csv(folder / "x.csv", "url,caption\nhttps://example.org/1/a.png?x=1,a cat\n")
    assert captions(path) == {"a.png": ["a cat"]}


def test_two_addresses_with_one_file_name_leave_it_out(folder):
    path = csv(folder / "x.csv", "url,caption\nhttp://x.org/1/a.png,x\nhttp://x.org/2/a.png,y\nhttp://x.org/b.png,z\n")
    assert captions(path) == {"b.png": ["z"]}
    assert issues(path) == [("two addresses with one file name", "a.png (x.csv line 3)")]


def test_lines_with_one_id_are_one_row(folder):
    path = csv(folder / "x.csv", "image,caption,key\na.png,a cat,7\na.png,my cat,7\nb.png,a dog,8\n")
    assert captions(path, columns=Columns(id="key")) == {"7": ["a cat", "my cat"], "8": ["a dog"]}


def test_what_contradicts_itself_is_left_out_and_named(folder):
    path = csv(folder / "x.csv", "image,caption,key\na.png,a cat,7\nb.png,my cat,7\nb.png,a dog,8\n")
    assert captions(path, columns=Columns(id="key")) == {"8": ["a dog"]}
    assert issues(path, columns=Columns(id="key")) == [("one id with two images", "7 (x.csv line 3)")]


def test_numbered_columns_are_several_captions(folder):
    path = csv(folder / "x.csv", "image,caption_0,caption_1\na.png,a cat,my cat\nb.png,a dog,\n")
    assert captions(path) == {"a.png": ["a cat", "my cat"], "b.png": ["a dog"]}


def test_what_cannot_be_used_is_named_by_file_and_line(folder):
    path = csv(folder / "x.csv", "image,caption\na.png,a cat\n../x.png,x\ngone.png,x\nb.png,a, dog\n")
    assert sorted(name for _, name in issues(path)) == [
        "../x.png (x.csv line 3)",
        "gone.png (x.csv line 4)",
        "x.csv line 5",
    ]


def test_rows_of_parquet_are_counted_from_0(folder):
    path = parquet(folder / "x.parquet", image=["a.png", "gone.png"], caption=["x", "y"])
    assert issues(path) == [("image is missing", "gone.png (x.parquet row 1)")]


# ---------------------------------------------------------------- images within


@pytest.mark.parametrize("kind", ["bytes", "struct", "Image"])
def test_images_may_be_within(folder, kind):
    encoded = (folder / "a.png").read_bytes()
    value = encoded if kind == "bytes" else {"bytes": encoded, "path": "whatever.png"}
    feature = {"bytes": BYTES, "struct": STRUCT, "Image": datasets.Image()}[kind]
    path = parquet(folder / "x.parquet", {"image": feature, "text": TEXT}, image=[value], text=["a cat"])
    row = read(path).table[0]
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
    assert list(read(one).table) == list(read(other).table)


def test_a_struct_may_hold_a_path_in_place_of_bytes(folder):
    images = [{"bytes": None, "path": "a.png"}, {"bytes": (folder / "b.png").read_bytes(), "path": None}]
    images += [{"bytes": None, "path": "../x.png"}, {"bytes": None, "path": None}, None]
    path = parquet(folder / "x.parquet", {"image": STRUCT, "text": TEXT}, image=images, text=["x"] * 5)
    table = read(path).table
    colors = {decode(read_bytes(image)).getpixel((0, 0)) for image in table["image"]}
    assert colors == {(255, 0, 0), (0, 0, 255)}
    assert issues(path) == [
        ("caption without an image", "x.parquet row 3"),
        ("caption without an image", "x.parquet row 4"),
        ("image outside of the data folder", "../x.png (x.parquet row 2)"),
    ]


def test_files_of_a_folder_called_like_splits_give_the_split(folder):
    for number, name in enumerate(["train-00000-of-00001", "validation-0", "extra"]):
        parquet(folder / "data" / f"{name}.parquet", image=[bytes([number])], text=[name])
    table = read(folder / "data").table
    assert dict(zip((text for (text,) in table["captions"]), table["split"], strict=True)) == {
        "train-00000-of-00001": "train",
        "validation-0": "val",
        "extra": None,
    }


def test_rows_of_images_within_are_named_by_file_and_row(folder):
    for name, text in (("a", "x"), ("b", "")):
        parquet(folder / "data" / f"{name}.parquet", image=[name.encode()], text=[text])
    [(kind, name)] = issues(folder / "data")
    assert kind == "empty caption"
    assert name.endswith("(b.parquet row 0)")


def test_a_damaged_file_of_a_folder_is_named(folder):
    parquet(folder / "data" / "a.parquet", image=["a.png"], text=["x"])
    (folder / "data" / "b.parquet").write_bytes(b"PAR1")
    assert issues(folder / "data", images=folder) == [("file can't be read", "b.parquet")]


def test_a_link_out_of_a_folder_of_files_is_not_followed_and_named(folder):
    parquet(folder / "data" / "a.parquet", image=["a.png"], text=["x"])
    (folder / "data" / "b.parquet").symlink_to(parquet(folder / "b.parquet", image=["b.png"], text=["y"]))
    assert captions(folder / "data", images=folder) == {"a.png": ["x"]}
    assert issues(folder / "data", images=folder) == [("image outside of the data folder", "b.parquet")]


# ---------------------------------------------------------------- saved by datasets


def saved(*texts: str, **more) -> datasets.Dataset:
    features = {"image": datasets.Image(), "text": TEXT} | dict.fromkeys(more, TEXT)
    columns = {"image": [Image.new("RGB", (4, 4), "red")] * len(texts), "text": list(texts), **more}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def test_a_saved_table_is_read(folder):
    saved("a cat", "a dog").save_to_disk(folder / "mine")
    rows = read(folder / "mine").table
    assert list(zip(rows["id"], rows["captions"], rows["split"], strict=True)) == [
        ("mine-0000000", ["a cat"], None),
        ("mine-0000001", ["a dog"], None),
    ]


def test_the_splits_of_saved_tables_are_respected(folder):
    datasets.DatasetDict(train=saved("x"), validation=saved("y"), test=saved("z")).save_to_disk(folder / "mine")
    rows = read(folder / "mine").table
    assert dict(zip(rows["id"], rows["split"], strict=True)) == {
        "train-0000000": "train",
        "validation-0000000": "val",
        "test-0000000": "test",
    }


def test_columns_of_a_saved_table_can_be_named(folder):
    saved("x", "y", who=["7", "8"]).save_to_disk(folder / "mine")
    assert list(read(folder / "mine", columns=Columns(group="who")).table["group"]) == ["7", "8"]


def test_a_damaged_data_set_is_refused_in_one_line(folder):
    saved("x").save_to_disk(folder / "mine")
    (folder / "mine" / "data-00000-of-00001.arrow").write_bytes(b"")
    with pytest.raises(UserError, match=r"data\.path=.*mine: can't be read as a saved data set \(.*\)$"):
        read(folder / "mine")


def test_a_file_that_a_saved_data_set_lacks_is_named(folder):
    saved("x").save_to_disk(folder / "mine")
    (folder / "mine" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match=r"\(No such file or directory: .*data-00000-of-00001\.arrow\)$"):
        read(folder / "mine")


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


# ---------------------------------------------------------------- lines of text

COMMA = "line with more cells than columns (a caption with a comma needs double quotes)"
QUOTE = "line isn't CSV (is a double quote left open?)"


def raw(path: Path, text: str | bytes) -> tuple[list[tuple[str, dict]], list[tuple[str, str]]]:
    """The raw rows of a file with the columns a and b, and its issues."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    rows = list(read_table(path, path.name, Columns(image="a", caption="b")).rows)
    lines, bad = ([tuple(row) for row in rows if isinstance(row, kind)] for kind in (RawRow, RowIssue))
    return lines, bad


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (b'{"a": ', "line isn't JSON"),
        (b"[" * 100_000, "line isn't JSON"),
        (b'{"a": "caf\xe9"}', "line isn't UTF-8 text"),
        (b"null", "line isn't a JSON object"),
        (b'["a"]', "line isn't a JSON object"),
    ],
    ids=["cut in half", "too deep", "another encoding", "null", "list"],
)
def test_a_bad_line_of_json_is_named_and_the_others_are_read(tmp_path, bad, kind):
    lines, issues = raw(tmp_path / "x.jsonl", b'{"a": 1, "b": 2}\n' + bad + b'\n\n{"a": 3}')
    assert lines == [("x.jsonl line 1", {"a": 1, "b": 2}), ("x.jsonl line 4", {"a": 3})]
    assert issues == [(kind, "x.jsonl line 2")]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (b"1,red, and a cat", COMMA),
        (b'1,"caf\xe9"', "line isn't UTF-8 text"),
        (b'1,"open', QUOTE),
        (b'1,"a" b', QUOTE),
    ],
    ids=["comma", "another encoding", "open quote", "text after a quote"],
)
def test_a_bad_line_of_csv_is_named_and_the_others_are_read(tmp_path, bad, kind):
    lines, issues = raw(tmp_path / "x.csv", b'a,b\n0,"a\nb"\n' + bad + b"\n\n2,y\n3,z\n")
    assert [cells["a"] for _, cells in lines] == ["0", "2", "3"]
    assert issues == [(kind, "x.csv line 4")]


def test_lines_of_csv_are_counted_where_they_begin(tmp_path):
    lines, _ = raw(tmp_path / "x.csv", 'a,b\n\n0,"a\nb"\n1,c\n')
    assert [where for where, _ in lines] == ["x.csv line 3", "x.csv line 5"]


def test_several_open_quotes_in_a_csv_are_each_named(tmp_path):
    lines, issues = raw(tmp_path / "x.csv", 'a,b\n1,"x\n2,y\n3,"z\n4,w\n')
    assert [cells["a"] for _, cells in lines] == ["2", "4"]
    assert issues == [(QUOTE, "x.csv line 2"), (QUOTE, "x.csv line 4")]


def test_a_cell_may_be_larger_than_csv_usually_takes(tmp_path):
    lines, issues = raw(tmp_path / "x.csv", f"a,b\n1,{'x' * 200_000}\n")
    assert len(lines[0][1]["b"]) == 200_000
    assert issues == []


def test_an_open_quote_does_not_take_megabytes_for_a_caption(tmp_path):
    lines, issues = raw(tmp_path / "x.csv", 'a,b\n1,"x\n' + f"2,{'y' * 1000}\n" * 17_000)
    assert len(lines) == 17_000
    assert issues == [(QUOTE, "x.csv line 2")]


def test_a_nul_in_a_csv_does_not_keep_the_other_lines_from_being_read(tmp_path):
    lines, _ = raw(tmp_path / "x.csv", "a,b\n1,x\0y\n2,z\n")
    cells = [cells for _, cells in lines]
    assert cells[-1] == {"a": "2", "b": "z"}
    assert cells[0] == {"a": "1", "b": "x\0y"}


def test_tabs_separate_the_cells_of_a_tsv(tmp_path):
    assert raw(tmp_path / "x.tsv", "a\tb\n1\tx, y\n")[0] == [("x.tsv line 2", {"a": "1", "b": "x, y"})]


def test_spaces_around_the_names_of_columns_do_not_count(folder):
    assert captions(csv(folder / "x.csv", "file_name, text \na.png,x\n")) == {"a.png": ["x"]}


def test_the_columns_of_jsonl_are_those_of_all_its_lines(folder):
    path = csv(folder / "x.jsonl", '{"text": "x"}\n{oops\n{"file_name": "a.png", "text": "y"}\n')
    assert captions(path) == {"a.png": ["y"]}


@pytest.mark.parametrize("text", ["a,b\n1,2\n".encode("utf-16"), b"gr\xf6\xdfe,b\n"], ids=["UTF-16", "Latin-1"])
def test_a_csv_whose_columns_cannot_be_read_is_refused(folder, text):
    (folder / "x.csv").write_bytes(text)
    assert mistake(folder / "x.csv").endswith("x.csv: not UTF-8 text; save the file in that encoding")


def test_a_broken_parquet_file_is_refused(folder):
    (folder / "x.parquet").write_bytes(b"PAR1")
    assert "x.parquet: can't be read as Parquet" in mistake(folder / "x.parquet")
