import itertools

import pytest

from captioning.data.sources.row_builder import Cells, RowBuilder


def drafted(*lines: tuple[str, str, Cells], id_expected: bool = False) -> tuple[list[tuple], list[tuple[str, str]]]:
    """The rows and problems of lines, each of them an id, an image and cells."""
    draft = RowBuilder()
    for number, (row_id, image, cells) in enumerate(lines, 1):
        draft.add(row_id, image, cells, f"line {number}", id_expected=id_expected)
    return [tuple(row) for row in draft.usable()], [tuple(problem) for problem in draft.problems]


def said(captions: object = "x", **more: object) -> Cells:
    return Cells(image=None, captions=captions, **more)


@pytest.mark.parametrize(
    ("cell", "captions", "faults"),
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
def test_captions_of_a_cell(cell, captions, faults):
    rows, problems = drafted(("a", "p", said(cell)))
    assert rows == ([("a", "p", captions, None, None, None)] if captions else [])
    assert problems == [(fault, "a (line 1)") for fault in faults]


@pytest.mark.parametrize(
    ("value", "text"), [("x", "x"), (7, "7"), (7.0, "7"), (7.5, "7.5"), ("", None), (None, None), (float("nan"), None)]
)
def test_a_group_is_text_or_a_number(value, text):
    assert drafted(("a", "p", said(group=value)))[0] == [("a", "p", ["x"], None, text, None)]


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (said(group=[1]), "group isn't text or a number"),
        (said(stratum={}), "stratum isn't text or a number"),
        (said(id=["x"]), "id isn't text or a number"),
        (said(group="\ud83d"), "group isn't text or a number"),
        (said(split="tset"), "unknown split 'tset'"),
        (said(split=3), "unknown split 3"),
        (said(split=[]), "unknown split []"),
    ],
)
def test_a_cell_that_cannot_be_used_leaves_its_line_out(cells, problem):
    assert drafted(("a", "p", cells)) == ([], [(problem, "a (line 1)")])


def test_a_line_without_the_id_that_others_have_is_left_out():
    rows, problems = drafted(("a", "p", said(id=7)), ("b", "q", said()), id_expected=True)
    assert [row[0] for row in rows] == ["7"]
    assert problems == [("id is missing", "b (line 2)")]


def test_lines_with_one_id_are_put_together_in_no_order_of_theirs():
    lines = [("a", "p", said("y")), ("a", "p", said("x", split="val")), ("a", "p", said(["z", "b"], group=7))]
    for order in itertools.permutations(lines):
        assert drafted(*order)[0] == [("a", "p", ["b", "x", "y", "z"], "val", "7", None)]


def test_captions_of_one_line_keep_their_order():
    assert drafted(("a", "p", said(["z", "b"])))[0] == [("a", "p", ["z", "b"], None, None, None)]


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (("p", said()), ("q", said()), "one id with two images"),
        (("p", said(split="train")), ("p", said(split="val")), "image in two splits"),
        (("p", said(group=1)), ("p", said(group=2)), "image in two groups"),
        (("p", said(stratum=1)), ("p", said(stratum=2)), "image in two strata"),
    ],
)
def test_lines_that_contradict_each_other_leave_the_row_out_in_any_order(one, other, kind):
    for order in itertools.permutations([("a", *one), ("a", *other), ("a", "p", said())]):
        rows, problems = drafted(*order)
        assert rows == []
        assert [problem for problem, _ in problems] == [kind]


def test_names_of_problems_fit_in_one_line():
    assert drafted(("a\nb", "p", said("")))[1] == [("empty caption", "a\\nb (line 1)")]
