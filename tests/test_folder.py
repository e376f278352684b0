import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from PIL import Image

from captioning.data.folder import read_folder
from captioning.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Lay out a folder: pictures by name, and text files by name and text (or bytes)."""

    def laid_out(*pictures: str, files: Mapping[str, str | bytes] = MappingProxyType({})) -> Path:
        for path in (tmp_path / name for name in [*pictures, *files]):
            path.parent.mkdir(parents=True, exist_ok=True)
        for name in pictures:
            Image.new("RGB", (4, 4), "red").save(tmp_path / name)
        for name, text in files.items():
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return laid_out


def lines(*objects) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


def line(file_name: object, text: object, **more: object) -> dict[str, object]:
    return {"file_name": file_name, "text": text, **more}


def captions(path: Path, **columns: str) -> dict[str, list[str]]:
    table = read_folder(str(path), **columns).table
    return dict(zip(table["id"], table["captions"], strict=True))


def problems(path: Path) -> list[tuple[str, str]]:
    return sorted(map(tuple, read_folder(str(path)).problems))


def mistake(path: Path | str, **columns: str) -> str:
    with pytest.raises(UserError) as caught:
        read_folder(str(path), **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- where captions stand


def test_metadata_jsonl_gives_each_picture_its_caption(folder):
    path = folder("a.png", "b.png", files={"metadata.jsonl": lines(line("a.png", "a cat"), line("b.png", "a dog"))})
    assert captions(path) == {"a.png": ["a cat"], "b.png": ["a dog"]}


def test_metadata_csv_gives_each_picture_its_caption(folder):
    path = folder("a.png", "b.png", files={"metadata.csv": 'file_name,text\na.png,a cat\nb.png,"red, and a dog"\n'})
    assert captions(path) == {"a.png": ["a cat"], "b.png": ["red, and a dog"]}


def test_each_line_of_a_text_file_beside_a_picture_is_a_caption(folder):
    path = folder("a.png", "b.x.png", files={"a.txt": "a cat\n\n  my  cat \n", "b.x.txt": "a dog"})
    assert captions(path) == {"a.png": ["a cat", "my cat"], "b.x.png": ["a dog"]}


def test_a_row_points_to_its_picture(folder):
    path = folder("in/a.png", files={"metadata.jsonl": lines(line("in/a.png", "a cat"))})
    assert read_folder(str(path)).table[0]["image"] == {"bytes": None, "path": str(path / "in/a.png")}


def test_pictures_in_subfolders_are_known_by_their_path(folder):
    path = folder(
        "a.png", "in/a.png", files={"metadata.jsonl": lines(line("a.png", "a cat"), line("in/a.png", "a dog"))}
    )
    assert captions(path) == {"a.png": ["a cat"], "in/a.png": ["a dog"]}


def test_text_files_in_subfolders_belong_to_the_picture_beside_them(folder):
    path = folder("a.png", "in/a.png", files={"a.txt": "a cat", "in/a.txt": "a dog"})
    assert captions(path) == {"a.png": ["a cat"], "in/a.png": ["a dog"]}


def test_metadata_goes_before_text_files(folder):
    path = folder(
        "a.png", files={"metadata.jsonl": lines(line("a.png", "of the metadata")), "a.txt": "of the text file"}
    )
    assert captions(path) == {"a.png": ["of the metadata"]}


def test_a_list_of_captions(folder):
    path = folder("a.png", files={"metadata.jsonl": lines(line("a.png", ["a cat", None, " ", "my cat"]))})
    assert captions(path) == {"a.png": ["a cat", "my cat"]}


def test_lines_about_the_same_picture_are_put_together(folder):
    path = folder("a.png", "b.png", files={"metadata.csv": "file_name,text\na.png,a cat\nb.png,a dog\na.png,my cat\n"})
    assert captions(path) == {"a.png": ["a cat", "my cat"], "b.png": ["a dog"]}


@pytest.mark.parametrize("column", ["text", "caption", "captions"])
def test_the_usual_names_of_the_caption_column_are_known(folder, column):
    assert captions(folder("a.png", files={"metadata.jsonl": lines({"file_name": "a.png", column: "a cat"})})) == {
        "a.png": ["a cat"]
    }


def test_columns_of_other_names_can_be_given(folder):
    path = folder("a.png", files={"metadata.csv": "text,picture,alt\nno,a.png,a cat\n"})
    assert captions(path, image_column="picture", caption_column="alt") == {"a.png": ["a cat"]}


def test_a_column_without_a_name_such_as_pandas_writes_is_passed_over(folder):
    path = folder("a.png", files={"metadata.csv": ",file_name,text\n0,a.png,a cat\n"})
    assert captions(path) == {"a.png": ["a cat"]}


def test_the_column_split_is_respected(folder):
    given = {"a.png": "train", "b.png": "validation", "c.png": "TEST", "d.png": None, "e.png": ""}
    path = folder(
        *given, files={"metadata.jsonl": lines(*(line(name, "x", split=split) for name, split in given.items()))}
    )
    assert list(read_folder(str(path)).table["split"]) == ["train", "val", "test", None, None]


def test_rows_are_the_same_however_lines_are_ordered(folder):
    one, other = line("a.png", "a cat"), line("b.png", "a dog")
    path = folder("b.png", "a.png", files={"metadata.jsonl": lines(one, other)})
    before = list(read_folder(str(path)).table)
    folder(files={"metadata.jsonl": lines(other, one)})
    assert list(read_folder(str(path)).table) == before


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


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{"text": "café"}\n', "metadata.jsonl line 2"),
        ("metadata.csv", "file_name,text\na.png,café\n", "metadata.csv line 2"),
        ("a.txt", "café\n", "a.txt line 1"),
    ],
    ids=["jsonl", "csv", "txt"],
)
def test_a_file_in_another_encoding_is_named(folder, name, text, where):
    path = folder("a.png", files={name: text.encode("latin-1")})
    assert f"{where}: not UTF-8" in mistake(path)


@pytest.mark.parametrize(
    "written", ["in/a.png", "./in/a.png", "in//a.png", "in\\a.png", ".\\in\\a.png"], ids=lambda name: name
)
def test_a_file_name_is_found_as_any_system_writes_it(folder, written):
    assert captions(folder("in/a.png", files={"metadata.jsonl": lines(line(written, "a cat"))})) == {
        "in/a.png": ["a cat"]
    }


def test_an_accented_file_name_is_found_however_its_accents_are_encoded(folder):
    path = folder("cafe\N{COMBINING ACUTE ACCENT}.png", files={"metadata.jsonl": lines(line("café.png", "a cat"))})
    assert captions(path) == {"café.png": ["a cat"]}


def test_suffixes_may_be_in_upper_case(folder):
    assert captions(folder("A.PNG", files={"A.txt": "a cat"})) == {"A.PNG": ["a cat"]}


def test_a_folder_with_a_pictures_name_is_no_picture(folder):
    path = folder("a.png", files={"metadata.jsonl": lines(line("a.png", "a cat"))})
    (path / "x.png").mkdir()
    assert problems(path) == []


def test_hidden_files_are_no_pictures(folder):
    path = folder("a.png", "._a.png", files={"metadata.jsonl": lines(line("a.png", "a cat"))})
    assert problems(path) == []


# ---------------------------------------------------------------- what is left out


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "a cat"), line("gone.png", "x"))},
            [("caption without a picture", "gone.png (metadata.jsonl line 2)"), ("picture without a caption", "b.png")],
            id="no such picture",
        ),
        pytest.param(
            {"metadata.csv": "file_name,text\n\ngone.png,x\na.png,a cat\nb.png,a dog\n"},
            [("caption without a picture", "gone.png (metadata.csv line 3)")],
            id="no such picture in a CSV",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "a cat"), line("", "x"), line("b.png", "a dog"))},
            [("caption without a picture", "(no name) (metadata.jsonl line 2)")],
            id="no file name",
        ),
        pytest.param(
            {"a.txt": "a cat", "gone.txt": "x"},
            [
                ("caption without a picture", "gone.txt (no picture of that name)"),
                ("picture without a caption", "b.png"),
            ],
            id="text file alone",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "a cat"), line("b.png", ""))},
            [("empty caption", "b.png (metadata.jsonl line 2)")],
            id="empty caption",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "a cat"), line("b.png", None))},
            [("empty caption", "b.png (metadata.jsonl line 2)")],
            id="null caption",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "a cat"), line("b.png", []))},
            [("empty caption", "b.png (metadata.jsonl line 2)")],
            id="empty list",
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
    ],
)
def test_what_is_left_out_is_named(folder, files, expected):
    assert problems(folder("a.png", "b.png", files=files)) == expected


@pytest.mark.parametrize("name", ["../secret.png", "in/../../secret.png", "..\\secret.png", "/etc/secret.png"])
def test_a_file_name_that_leads_out_of_the_folder_is_not_followed(folder, name):
    path = folder("data/a.png", "secret.png", files={"data/metadata.jsonl": lines(line("a.png", "x"), line(name, "y"))})
    assert list(captions(path / "data")) == ["a.png"]


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("files", "columns", "expected"),
    [
        pytest.param(
            {"metadata.jsonl": '{"file_name": "a.png", "text": "x"}\n{oops\n'},
            {},
            "metadata.jsonl line 2: not JSON",
            id="broken JSON",
        ),
        pytest.param(
            {"metadata.jsonl": '{"file_name": "a.png", "text": "\\ud83d"}\n'},
            {},
            "metadata.jsonl line 1: not JSON",
            id="half an emoji",
        ),
        pytest.param({"metadata.jsonl": "[" * 100_000}, {}, "metadata.jsonl line 1: not JSON", id="nested too deeply"),
        pytest.param(
            {"metadata.jsonl": '["a.png", "a cat"]\n'}, {}, 'line 1: a JSON object is needed, got ["a.png"', id="list"
        ),
        pytest.param({"metadata.jsonl": "null\n"}, {}, "line 1: a JSON object is needed, got null", id="null"),
        pytest.param(
            {"metadata.csv": "file_name,text\na.png,red, and a cat\n"},
            {},
            "metadata.csv line 2: more cells than the first line has columns",
            id="comma in a CSV without quotes",
        ),
        pytest.param(
            {"metadata.csv": 'file_name,text\na.png,"a cat\nb.png,a dog\n'},
            {},
            "metadata.csv line 3: not CSV (unexpected end of data); is a double quote left open?",
            id="open quote",
        ),
        pytest.param(
            {"metadata.jsonl": lines({"filename": "a.png", "text": "x"})},
            {},
            "data.image_column=file_name: no such column in metadata.jsonl line 1; did you mean filename?",
            id="no column of file names",
        ),
        pytest.param(
            {"metadata.csv": "file_name,txt\na.png,x\n"},
            {},
            "data.caption_column=text: no such column in metadata.csv line 2; did you mean txt?",
            id="no column of captions",
        ),
        pytest.param(
            {"metadata.jsonl": "\n" + lines(line("a.png", "x"))},
            {"caption_column": "texts"},
            "data.caption_column=texts: no such column in metadata.jsonl line 2; did you mean text?",
            id="wrong column given, first line blank",
        ),
        pytest.param(
            {"metadata.csv": "file_name;text\na.png;x\n"},
            {},
            "did you mean file_name;text?",
            id="CSV with semicolons",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "x", split="tset"))},
            {},
            "metadata.jsonl line 1: split 'tset' is none of train,",
            id="no such split",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "x", split="test"), line("a.png", "y", split="train"))},
            {},
            "metadata.jsonl line 2: a.png has split 'train' here and 'test' in an earlier line",
            id="two splits",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", "x", split="test"), line("a.png", "y"))},
            {},
            "metadata.jsonl line 2: a.png has split None here and 'test' in an earlier line",
            id="a split and none",
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", 3))}, {}, "metadata.jsonl line 1 holds 3; a caption", id="number"
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", {"en": "x"}))}, {}, "holds {'en': 'x'}; a caption", id="object"
        ),
        pytest.param(
            {"metadata.jsonl": lines(line("a.png", ""), line("x.png", "x"))},
            {},
            "1 x empty caption: a.png (metadata.jsonl line 1); 1 x caption without a picture: x.png",
            id="no usable caption",
        ),
        pytest.param({}, {}, "no usable caption: 1 x picture without a caption: a.png", id="no captions at all"),
        pytest.param({"metadata.csv": ""}, {}, "no usable caption", id="empty CSV"),
        pytest.param({"metadata.jsonl": ""}, {}, "no usable caption", id="empty JSONL"),
    ],
)
def test_a_mistake_is_answered_with_what_and_where(folder, files, columns, expected):
    assert expected in mistake(folder("a.png", files=files), **columns)


def test_a_missing_folder_is_named(tmp_path):
    assert mistake(tmp_path / "gone").startswith(f"data.path={tmp_path / 'gone'}: no such folder")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a.png").touch()
    assert "no such folder" in mistake(tmp_path / "a.png")


def test_a_folder_without_pictures_is_named_with_what_was_looked_for(folder):
    message = mistake(folder(files={"metadata.jsonl": lines(line("a.heic", "x"))}))
    assert "no pictures in this folder" in message
    assert ".jpeg, " in message


def test_a_folder_may_be_below_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder("mine/a.png", files={"mine/a.txt": "a cat"})))
    assert captions("~/mine") == {"a.png": ["a cat"]}
