from rows import make_rows

from captioning.data.rows import RowIssue, describe, row_features


def image(path: str) -> dict[str, str | None]:
    return {"bytes": None, "path": path}


def rows(*ids: str, **more):
    count = len(ids)
    columns = {"images": [image(i) for i in ids], "captions": [[f"of {i}"] for i in ids], "splits": [None] * count}
    return make_rows(ids=list(ids), **columns, **more)


def test_groups_and_strata_need_not_be_given():
    table = rows("a").table
    assert (table[0]["group"], table[0]["stratum"]) == (None, None)
    assert table.features == row_features()


def test_some_of_the_rows_keep_their_cells_and_problems():
    some = rows("a", "b", "c").select([0, 2], [RowIssue("empty caption", "b")])
    assert (some.ids, some.captions, some.issues) == (["a", "c"], [["of a"], ["of c"]], (("empty caption", "b"),))


def test_problems_are_counted_by_kind_with_the_first_names():
    issues = [RowIssue("empty caption", str(number)) for number in range(5)] + [RowIssue("image is missing", "x")]
    assert describe(issues) == "5 x empty caption: 0, 1, 2, …; 1 x image is missing: x"


def test_of_images_outside_of_the_folder_the_way_out_is_said():
    assert "data.images=FOLDER" in describe([RowIssue("image outside of the data folder", "x")])
