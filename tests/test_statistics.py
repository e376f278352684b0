from rows import make_rows

from captioning.data.rows import RowIssue
from captioning.data.statistics import spread, summarize


def rows_of(captions: list[list[str]]):
    ids = [f"{number}.png" for number in range(len(captions))]
    none = [None] * len(ids)
    return make_rows(ids=ids, images=none, captions=captions, splits=none, issues=[RowIssue("empty file", "x.png")])


def test_the_data_are_counted_by_split():
    rows = rows_of([["a dog"], ["a red cat", "a cat"], ["fish"]])
    summary = summarize(rows, [(10, 20), (30, 40), (50, 60)], {"train": [0, 1], "val": [], "test": [2]})
    assert summary["splits"] == {
        "train": {
            "images": 2,
            "captions": 3,
            "width": [10, 20, 30],
            "height": [20, 30, 40],
            "caption_words": {"2": 2, "3": 1},
        },
        "test": {
            "images": 1,
            "captions": 1,
            "width": [50, 50, 50],
            "height": [60, 60, 60],
            "caption_words": {"1": 1},
        },
    }


def test_samples_are_spread_over_the_first_split_that_has_any():
    summary = summarize(rows_of([["a"]] * 5), [(1, 1)] * 5, {"train": [], "test": [0, 1, 2, 3, 4]}, samples=3)
    assert [(sample["split"], sample["id"]) for sample in summary["samples"]] == [
        ("test", "0.png"),
        ("test", "2.png"),
        ("test", "4.png"),
    ]


def test_a_spread_goes_from_first_to_last_without_doubles():
    assert spread(range(101), 5) == [0, 25, 50, 75, 100]
    assert spread(range(3), 5) == [0, 1, 2]
    assert spread(range(7), 1) == [0]
    assert spread([], 4) == []
    assert len(set(spread(range(9), 8))) == 8
