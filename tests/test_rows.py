import pytest
from rows import make_rows

from captioning.data.rows import Problem, describe, require_columns, row_features
from captioning.errors import UserError


def image(path: str) -> dict[str, str | None]:
    return {"bytes": None, "path": path}


def rows(*ids: str, **more):
    count = len(ids)
    columns = {"images": [image(i) for i in ids], "captions": [[f"of {i}"] for i in ids], "splits": [None] * count}
    return make_rows(ids=list(ids), problems=[], **{**columns, **more})


def test_rows_are_sorted_by_id_with_all_their_cells():
    table = rows("é", "z", "Z", groups=["1", "2", None], strata=["x", None, "y"], splits=["val", None, "test"]).table
    assert list(table) == [
        {"id": "Z", "image": image("Z"), "captions": ["of Z"], "split": "test", "group": None, "stratum": "y"},
        {"id": "z", "image": image("z"), "captions": ["of z"], "split": None, "group": "2", "stratum": None},
        {"id": "é", "image": image("é"), "captions": ["of é"], "split": "val", "group": "1", "stratum": "x"},
    ]


def test_ids_are_sorted_as_python_sorts_them():
    ids = ["b", "B", "10", "9", "é", "\U0001f600", "\uffff", "a b", "a"]
    assert rows(*ids).ids == sorted(ids)


def test_groups_and_strata_need_not_be_given():
    table = rows("a").table
    assert (table[0]["group"], table[0]["stratum"]) == (None, None)
    assert table.features == row_features()


def test_some_of_the_rows_keep_their_cells_and_problems():
    some = rows("a", "b", "c").select([0, 2], [Problem("empty caption", "b")])
    assert (some.ids, some.captions, some.problems) == (["a", "c"], [["of a"], ["of c"]], (("empty caption", "b"),))


def test_problems_are_counted_by_kind_with_the_first_names():
    problems = [Problem("empty caption", str(number)) for number in range(5)] + [Problem("image is missing", "x")]
    assert describe(problems) == "5 x empty caption: 0, 1, 2, …; 1 x image is missing: x"


def test_of_images_outside_of_the_folder_the_way_out_is_said():
    assert "data.images=FOLDER" in describe([Problem("image outside of the data folder", "x")])


def test_a_column_that_is_not_there_is_refused_with_its_setting():
    with pytest.raises(UserError, match=r"data\.id_column=ids: no such column in here; did you mean id\?"):
        require_columns("here", ["id"], id_column="ids")
