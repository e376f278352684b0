import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import datasets
import pytest
from PIL import Image

from captioning.data.rows import USUAL, Columns, Rows
from captioning.data.sources import read_local
from captioning.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Lay out a folder: images by name, and text files by name and text (or bytes)."""

    def laid_out(*images: str, files: Mapping[str, str | bytes] = MappingProxyType({})) -> Path:
        for path in (tmp_path / name for name in [*images, *files]):
            path.parent.mkdir(parents=True, exist_ok=True)
        for name in images:
            Image.new("RGB", (4, 4), "red").save(tmp_path / name)
        for name, text in files.items():
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return laid_out


def lines(*objects) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


def line(file_name: object, text: object, **more: object) -> dict[str, object]:
    return {"file_name": file_name, "text": text, **more}


def read(path: Path, *, images: Path | None = None, columns: Columns = USUAL) -> Rows:
    return read_local(str(path), images=images and str(images), columns=columns)


def captions(path: Path, **settings) -> dict[str, list[str]]:
    table = read(path, **settings).table
    return dict(zip(table["id"], table["captions"], strict=True))


def splits(path: Path, **settings) -> dict[str, str | None]:
    table = read(path, **settings).table
    return dict(zip(table["id"], table["split"], strict=True))


def issues(path: Path, **settings) -> list[tuple[str, str]]:
    return sorted(map(tuple, read(path, **settings).issues))


def mistake(path: Path, **settings) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_usual_names_of_columns_are_found_with_capitals_too(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("Filename,Caption\na.png,an image\n")
    assert captions(tmp_path) == {"a.png": ["an image"]}


def test_a_column_asked_for_where_there_are_none_is_a_mistake(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("an image")
    said = mistake(tmp_path, columns=Columns(group="film"))
    assert said.startswith("data.group_column=film: captions in NAME.txt have no columns")


# ---------------------------------------------------------------- where captions stand


def test_metadata_jsonl_gives_each_image_its_caption(folder):
    path = folder("a.png", "b.png", files={"metadata.jsonl": lines(line("a.png", "a cat"), line("b.png", "a dog"))})
    assert captions(path) == {"a.png": ["a cat"], "b.png": ["a dog"]}


def test_metadata_csv_gives_each_image_its_caption(folder):
    path = folder("a.png", "b.png", files={"metadata.csv": 'file_name,text\na.png,a cat\nb.png,"red, and a dog"\n'})
    assert captions(path) == {"a.png": ["a cat"], "b.png": ["red, and a dog"]}


def test_metadata_parquet_gives_each_image_its_captions(folder):
    path = folder("a.png", "b.png")
    table = datasets.Dataset.from_dict({"file_name": ["a.png", "b.png"], "text": [["a cat"], ["a dog", "my dog"]]})
    table.to_parquet(path / "metadata.parquet")
    assert captions(path) == {"a.png": ["a cat"], "b.png": ["a dog", "my dog"]}


def test_each_line_of_a_text_file_beside_a_image_is_a_caption(folder):
    path = folder("a.png", "b.x.png", files={"a.txt": "a cat\n\n  my  cat \n", "b.x.txt": "a dog"})
    assert captions(path) == {"a.png": ["a cat", "my cat"], "b.x.png": ["a dog"]}


def test_a_row_points_to_its_image(folder):
    path = folder("in/a.png", files={"metadata.jsonl": lines(line("in/a.png", "a cat"))})
    assert read(path).table[0]["image"] == {"bytes": None, "path": str(path / "in/a.png")}


def test_images_in_subfolders_are_known_by_their_path(folder):
    path = folder(
        "a.png", "in/a.png", files={"metadata.jsonl": lines(line("a.png", "a cat"), line("in/a.png", "a dog"))}
    )
    assert captions(path) == {"a.png": ["a cat"], "in/a.png": ["a dog"]}


def test_names_in_a_subfolders_metadata_are_relative_to_it(folder):
    files = {"in/metadata.jsonl": lines(line("a.png", "a cat")), "metadata.csv": "file_name,text\na.png,a dog\n"}
    assert captions(folder("a.png", "in/a.png", files=files)) == {"a.png": ["a dog"], "in/a.png": ["a cat"]}


def test_each_metadata_file_has_its_own_columns(folder):
    files = {"x/metadata.jsonl": lines(line("a.png", "a cat")), "y/metadata.csv": "filename,caption\nb.png,a dog\n"}
    assert captions(folder("x/a.png", "y/b.png", files=files)) == {"x/a.png": ["a cat"], "y/b.png": ["a dog"]}


def test_text_files_in_subfolders_belong_to_the_image_beside_them(folder):
    path = folder("a.png", "in/a.png", files={"a.txt": "a cat", "in/a.txt": "a dog"})
    assert captions(path) == {"a.png": ["a cat"], "in/a.png": ["a dog"]}


def test_metadata_goes_before_text_files(folder):
    path = folder(
        "a.png", files={"metadata.jsonl": lines(line("a.png", "of the metadata")), "a.txt": "of the text file"}
    )
    assert captions(path) == {"a.png": ["of the metadata"]}


def test_columns_of_other_names_can_be_given(folder):
    path = folder("a.png", files={"metadata.csv": "text,image,alt\nno,a.png,a cat\n"})
    assert captions(path, columns=Columns(image="image", caption="alt")) == {"a.png": ["a cat"]}


def test_a_column_without_a_name_such_as_pandas_writes_is_passed_over(folder):
    path = folder("a.png", files={"metadata.csv": ",file_name,text\n0,a.png,a cat\n"})
    assert captions(path) == {"a.png": ["a cat"]}


def test_images_may_be_in_a_folder_of_their_own(folder):
    path = folder("images/a.png", files={"texts/metadata.jsonl": lines(line("a.png", "a cat"))})
    assert captions(path / "texts", images=path / "images") == {"a.png": ["a cat"]}


def test_text_files_may_be_in_another_folder_than_images(folder):
    path = folder("images/in/a.png", files={"texts/in/a.txt": "a cat"})
    assert captions(path / "texts", images=path / "images") == {"in/a.png": ["a cat"]}


def test_images_of_other_data_in_their_folder_are_no_problem(folder):
    path = folder("images/a.png", "images/b.png", files={"texts/metadata.jsonl": lines(line("a.png", "a cat"))})
    assert issues(path / "texts", images=path / "images") == []


# ---------------------------------------------------------------- splits, groups, strata


def test_the_column_split_is_respected(folder):
    given = {"a.png": "train", "b.png": "validation", "c.png": "TEST", "d.png": None, "e.png": ""}
    path = folder(
        *given, files={"metadata.jsonl": lines(*(line(name, "x", split=split) for name, split in given.items()))}
    )
    assert splits(path) == {"a.png": "train", "b.png": "val", "c.png": "test", "d.png": None, "e.png": None}


def test_subfolders_called_like_splits_give_the_split(folder):
    files = {f"{name}/metadata.jsonl": lines(line("a.png", "x")) for name in ("train", "valid", "extra")}
    path = folder("train/a.png", "valid/a.png", "extra/a.png", files=files)
    assert splits(path) == {"train/a.png": "train", "valid/a.png": "val", "extra/a.png": None}


def test_subfolders_give_the_split_where_captions_are_in_text_files(folder):
    path = folder("train/a.png", "test/x/a.png", files={"train/a.txt": "x", "test/x/a.txt": "x"})
    assert splits(path) == {"train/a.png": "train", "test/x/a.png": "test"}


def test_a_single_subfolder_called_train_may_hold_images_of_trains(folder):
    path = folder("train/a.png", "car/a.png", files={"train/a.txt": "a train", "car/a.txt": "a car"})
    assert set(splits(path).values()) == {None}


def test_a_column_of_splits_goes_before_the_subfolder(folder):
    files = {
        "train/metadata.jsonl": lines(line("a.png", "x", split="test")),
        "val/metadata.jsonl": lines(line("a.png", "x")),
    }
    assert splits(folder("train/a.png", "val/a.png", files=files)) == {"train/a.png": "test", "val/a.png": "val"}


def test_groups_and_strata_are_those_of_the_named_columns(folder):
    path = folder("a.png", "b.png", files={"metadata.csv": "file_name,text,who,kind\na.png,x,7,cat\nb.png,y,,\n"})
    table = read(path, columns=Columns(group="who", stratify="kind")).table
    assert list(zip(table["group"], table["stratum"], strict=True)) == [("7", "cat"), (None, None)]


def test_rows_are_the_same_however_lines_are_ordered(folder):
    several = [line("a.png", "a cat"), line("a.png", "A cat", split="val"), line("b.png", "a dog"), line("a.png", "x")]
    path = folder("b.png", "a.png", files={"metadata.jsonl": lines(*several)})
    before = list(read(path).table)
    folder(files={"metadata.jsonl": lines(*reversed(several))})
    assert list(read(path).table) == before


# ---------------------------------------------------------------- how files are written


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "a café"}\n\n'.encode()),
        ("metadata.csv", "file_name,text\na.png,a café\n".encode()),
        ("a.txt", "a café\n".encode()),
    ],
    ids=["jsonl", "csv", "txt"],
)
def test_text_files_of_any_system_are_read(folder, name, text, end, mark):
    path = folder("a.png", files={name: mark + text.replace(b"\n", end)})
    assert captions(path) == {"a.png": ["a café"]}


def test_a_line_in_another_encoding_is_left_out_of_a_text_file(folder):
    path = folder("a.png", files={"a.txt": "a cat\na café\n".encode("latin-1")})
    assert captions(path) == {"a.png": ["a cat"]}
    assert issues(path) == [("line isn't UTF-8 text", "a.txt line 2")]


def test_suffixes_may_be_in_upper_case(folder):
    assert captions(folder("A.PNG", files={"A.txt": "a cat"})) == {"A.PNG": ["a cat"]}


def test_a_folder_with_a_images_name_is_no_image(folder):
    path = folder("a.png", files={"metadata.jsonl": lines(line("a.png", "a cat"))})
    (path / "x.png").mkdir()
    assert issues(path) == []


def test_hidden_files_and_folders_are_no_images(folder):
    path = folder("a.png", "._a.png", ".in/b.png", files={"metadata.jsonl": lines(line("a.png", "a cat"))})
    assert issues(path) == []


# ---------------------------------------------------------------- what is left out


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "a cat"), line("gone.png", "x"))},
            [("image is missing", "gone.png (metadata.jsonl line 2)"), ("image without a caption", "b.png")],
            id="no such image",
        ),
        pytest.param(
            {"metadata.csv": "file_name,text\n\ngone.png,x\na.png,a cat\nb.png,a dog\n"},
            [("image is missing", "gone.png (metadata.csv line 3)")],
            id="no such image in a CSV",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "a cat"), line("", "x"), line("b.png", "a dog"))},
            [("caption without an image", "metadata.jsonl line 2")],
            id="no file name",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "a cat"), line(7, "x"), line("b.png", "a dog"))},
            [("caption without an image", "metadata.jsonl line 2")],
            id="a number for a file name",
        ),
        pytest.param(
            {"a.txt": "a cat", "gone.txt": "x"},
            [
                ("caption without an image", "gone.txt (no image of that name)"),
                ("image without a caption", "b.png"),
            ],
            id="text file alone",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "a cat"), line("b.png", ""))},
            [("empty caption", "b.png (metadata.jsonl line 2)")],
            id="empty caption",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "a cat"), {"file_name": "b.png"})},
            [("empty caption", "b.png (metadata.jsonl line 2)")],
            id="line without the column",
        ),
        pytest.param(
            {"metadata.csv": "file_name,text\na.png,a cat\nb.png\n"},
            [("empty caption", "b.png (metadata.csv line 3)")],
            id="short CSV row",
        ),
        pytest.param(
            {"a.txt": "a cat", "b.txt": " \n\n"}, [("empty caption", "b.png (b.txt)")], id="text file of spaces"
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "a cat"), line("b.png", "x", split="tset"))},
            [("unknown split 'tset'", "b.png (metadata.jsonl line 2)")],
            id="no such split",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "a cat"), line("b.png", "x")) + "{oops\n"},
            [("line isn't JSON", "metadata.jsonl line 3")],
            id="a line that can't be read",
        ),
    ],
)
def test_what_is_left_out_is_named(folder, files, expected):
    assert issues(folder("a.png", "b.png", files=files)) == expected


@pytest.mark.parametrize("name", ["../secret.png", "in/../../secret.png", "..\\secret.png", "/etc/secret.png"])
def test_a_file_name_that_leads_out_of_the_folder_is_not_followed(folder, name):
    path = folder("data/a.png", "secret.png", files={"data/metadata.jsonl": lines(line("a.png", "x"), line(name, "y"))})
    assert issues(path / "data") == [("image outside of the data folder", f"{name} (metadata.jsonl line 2)")]


def test_a_subfolders_metadata_may_name_a_image_elsewhere_in_the_folder(folder):
    path = folder("a.png", files={"in/metadata.jsonl": lines(line("../a.png", "a cat"))})
    assert captions(path) == {"a.png": ["a cat"]}


@pytest.mark.parametrize(("link", "target"), [("train", "away"), ("b.png", "away/a.png"), ("b.txt", "away/a.txt")])
def test_a_link_out_of_the_folder_is_not_followed_and_named(folder, link, target):
    path = folder("data/a.png", "away/a.png", files={"data/a.txt": "x", "away/a.txt": "y"})
    (path / "data" / link).symlink_to(path / target)
    assert captions(path / "data") == {"a.png": ["x"]}
    assert issues(path / "data") == [("image outside of the data folder", link)]


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("files", "columns", "expected"),
    [
        pytest.param(
            {"metadata.jsonl": lines({"filenam": "a.png", "text": "x"})},
            {},
            "data.image_column=file_name: no such column in metadata.jsonl; did you mean filenam?",
            id="no column of file names",
        ),
        pytest.param(
            {"metadata.csv": "file_name,txt\na.png,x\n"},
            {},
            "data.caption_column=text: no such column in metadata.csv; did you mean txt?",
            id="no column of captions",
        ),
        pytest.param(
            {"in/metadata.jsonl": "\n" + lines(line("a.png", "x"))},
            {"caption": "texts"},
            "data.caption_column=texts: no such column in in/metadata.jsonl; did you mean text?",
            id="wrong column given",
        ),
        pytest.param(
            {"metadata.csv": "file_name;text\na.png;x\n"}, {}, "did you mean file_name;text?", id="CSV with semicolons"
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", ""), line("x.png", "x"))},
            {},
            "none of its 2 images can be used: 1 x empty caption: a.png (metadata.jsonl line 1); 1 x image is",
            id="no usable caption",
        ),
        pytest.param({}, {}, "no captions in this folder", id="no captions at all"),
        pytest.param({"metadata.csv": ""}, {}, "no captions in it", id="empty CSV"),
        pytest.param({"metadata.jsonl": ""}, {}, "no captions in it", id="empty JSONL"),
        pytest.param({"metadata.parquet": "PAR1"}, {}, "can't be read as Parquet", id="broken Parquet"),
    ],
)
def test_a_mistake_is_answered_with_what_and_where(folder, files, columns, expected):
    assert expected in mistake(folder("a.png", files=files), columns=Columns(**columns))


def test_where_images_were_looked_for_is_said(folder):
    path = folder("a.png", files={"metadata.jsonl": lines(line("x.png", "x"))})
    assert mistake(path).endswith(f"Images were looked for as NAME in {path}; data.images=FOLDER names another folder")
