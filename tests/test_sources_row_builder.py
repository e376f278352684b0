import itertools
from pathlib import Path

import pytest

from captioning.data.rows import RawRow
from captioning.data.sources.columns import Cells, ColumnNames, Table
from captioning.data.sources.paths import ImageFolder
from captioning.data.sources.row_builder import RowBuilder, parse_cells

COLUMNS = ColumnNames("image", ("captions",), "id", "split", "group", "stratum")


def parsed(captions: object = "x", *, id_expected: bool = False, **more: object):
    """The captions and labels of a row, or None; and its issues."""
    cells = Cells(None, captions, **more)
    row, issues = parse_cells(cells, "a.png", "line 1", id_expected=id_expected)
    found = row and tuple(row[name] for name in ("id", "captions", "split", "group", "stratum"))
    return found, [tuple(issue) for issue in issues]


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    for name in ("p.png", "q.png"):
        (tmp_path / name).touch()
    return ImageFolder(tmp_path)


def merged(folder: ImageFolder, *rows: dict[str, object]) -> tuple[dict[str, tuple], list[str]]:
    """The captions and labels of each row by its id, and the kinds of issues."""
    builder = RowBuilder(folder)
    other = {"image": "q.png", "captions": "q", "id": "q"}  # without a row it would be an error
    raw = [RawRow(f"line {number}", row) for number, row in enumerate([*rows, other], 1)]
    builder.add(Table(COLUMNS, raw))
    table = builder.rows("here").table
    found = {row["id"]: (row["captions"], row["split"], row["group"], row["stratum"]) for row in table}
    assert found.pop("q") == (["q"], None, None, None)
    return found, [kind for kind, _ in builder.issues]


def line(captions: object = "x", image: str = "p.png", **more: object) -> dict[str, object]:
    return {"image": image, "captions": captions, "id": "a", **more}


@pytest.mark.parametrize(
    ("cell", "captions", "kinds"),
    [
        pytest.param("  a  red\ncat ", ["a red cat"], [], id="spaces"),
        pytest.param(["a", None, " ", "b"], ["a", "b"], [], id="a list with empty ones"),
        pytest.param("", [], ["empty caption"], id="empty"),
        pytest.param(None, [], ["empty caption"], id="nothing"),
        pytest.param([], [], ["empty caption"], id="empty list"),
        pytest.param(3, [], ["caption isn't text"], id="number"),
        pytest.param(float("nan"), [], ["caption isn't text"], id="NaN"),
        pytest.param({"en": "x"}, [], ["caption isn't text"], id="object"),
        pytest.param(["x", 3], ["x"], ["caption isn't text"], id="a number among captions"),
        pytest.param("a\0b", [], ["caption with a NUL character"], id="NUL"),
        pytest.param("half \ud83d", [], ["caption isn't valid Unicode"], id="half an emoji"),
        pytest.param("whole \U0001f600", ["whole \U0001f600"], [], id="a whole emoji"),
    ],
)
def test_captions_of_a_cell(cell, captions, kinds):
    row, issues = parsed(cell)
    assert row == (("a.png", captions, None, None, None) if captions else None)
    assert issues == [(kind, "a.png (line 1)") for kind in kinds]


@pytest.mark.parametrize(
    ("value", "text"), [("x", "x"), (7, "7"), (7.0, "7"), (7.5, "7.5"), ("", None), (None, None), (float("nan"), None)]
)
def test_a_group_is_text_or_a_number(value, text):
    assert parsed(group=value)[0] == ("a.png", ["x"], None, text, None)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ({"group": [1]}, "group isn't text or a number"),
        ({"stratum": {}}, "stratum isn't text or a number"),
        ({"id": ["x"]}, "id isn't text or a number"),
        ({"group": "\ud83d"}, "group isn't text or a number"),
        ({"split": "tset"}, "unknown split 'tset'"),
        ({"split": 3}, "unknown split 3"),
        ({"split": []}, "unknown split []"),
    ],
)
def test_a_cell_that_cannot_be_used_leaves_its_row_out(cells, kind):
    assert parsed(**cells) == (None, [(kind, "a.png (line 1)")])


def test_a_row_without_the_id_that_others_have_is_left_out():
    assert parsed(id=7, id_expected=True)[0] == ("7", ["x"], None, None, None)
    assert parsed(id_expected=True) == (None, [("id is missing", "a.png (line 1)")])


def test_names_of_issues_fit_in_one_line():
    assert parsed("", id="a\nb")[1] == [("empty caption", "a\\nb (line 1)")]


def test_rows_with_one_id_are_merged_in_any_order(folder):
    lines = [line("y"), line("x", split="val"), line(["z", "b"], group=7)]
    for order in itertools.permutations(lines):
        assert merged(folder, *order) == ({"a": (["b", "x", "y", "z"], "val", "7", None)}, [])


def test_captions_of_one_row_keep_their_order(folder):
    assert merged(folder, line(["z", "b"]))[0] == {"a": (["z", "b"], None, None, None)}


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ({}, {"image": "q.png"}, "one id with two images"),
        ({"split": "train"}, {"split": "val"}, "image in two splits"),
        ({"group": 1}, {"group": 2}, "image in two groups"),
        ({"stratum": 1}, {"stratum": 2}, "image in two strata"),
    ],
)
def test_rows_that_contradict_each_other_are_left_out_in_any_order(folder, one, other, kind):
    for order in itertools.permutations([line(**one), line(**other), line()]):
        assert merged(folder, *order) == ({}, [kind])
