import json
from collections import Counter

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from captioning.data.splits import SPLITS, leaks, read_given_splits, shuffled, split_rows
from captioning.errors import UserError

HUNDRED = [f"{number}.png" for number in range(100)]
unique_ids = st.lists(st.text(max_size=5), min_size=3, max_size=60, unique=True)
numbers = st.lists(st.integers(0, 12), min_size=60, max_size=60)
given_splits = st.lists(st.sampled_from(["train", "val", "test", None, None, None]), min_size=60, max_size=60)


def cut(ids, given=None, *, val_fraction=0.2, test_fraction=0.1, seed=0, **more):
    """The ids in each split."""
    given = [None] * len(ids) if given is None else given
    rows = split_rows(ids, given, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed, **more)
    return {split: [ids[row] for row in rows[split]] for split in SPLITS}


@pytest.mark.parametrize(
    ("val_fraction", "test_fraction", "expected"),
    [(0.2, 0.1, (70, 20, 10)), (0.015, 0.5, (48, 2, 50)), (0.001, 0.001, (98, 1, 1))],
)
def test_fractions_are_shares_of_all_images_and_one_at_least(val_fraction, test_fraction, expected):
    splits = cut(HUNDRED, val_fraction=val_fraction, test_fraction=test_fraction)
    assert tuple(map(len, splits.values())) == expected


def test_three_images_are_enough():
    assert [len(ids) for ids in cut(["a", "b", "c"]).values()] == [1, 1, 1]


@given(unique_ids, given_splits)
def test_every_image_is_in_exactly_one_split(ids, given):
    try:
        splits = cut(ids, given[: len(ids)])
    except UserError:  # too few are left to cut
        reject()
    assert sorted(name for names in splits.values() for name in names) == sorted(ids)


@given(unique_ids, given_splits)
def test_validation_and_test_images_that_the_data_gives_stay_what_they_are(ids, given):
    try:
        splits = cut(ids, given[: len(ids)])
    except UserError:  # too few are left to cut
        reject()
    for split in ("val", "test"):
        wanted = [name for name, its in zip(ids, given, strict=False) if its == split]
        assert not wanted or splits[split] == wanted


def test_a_test_split_that_the_data_lacks_is_cut_from_training_images_alone():
    given = ["val"] * 50 + ["train"] * 50
    splits = cut(HUNDRED, given)
    assert splits["val"] == HUNDRED[:50]
    assert len(set(splits["test"]) & set(HUNDRED[50:])) == 10


@given(st.permutations(HUNDRED))
def test_the_order_of_images_changes_nothing(ids):
    assert {split: sorted(names) for split, names in cut(ids).items()} == {
        split: sorted(names) for split, names in cut(HUNDRED).items()
    }


def test_rows_of_a_split_are_in_the_order_of_the_data():
    rows = split_rows(HUNDRED, [None] * 100, val_fraction=0.2, test_fraction=0.1, seed=0)
    assert all(rows[split] == sorted(rows[split]) for split in SPLITS)


@pytest.mark.parametrize("split", ["val", "test"])
def test_another_seed_cuts_other_images(split):
    assert set(cut(HUNDRED, seed=0)[split]) != set(cut(HUNDRED, seed=1)[split])


def test_the_cut_is_not_along_the_names():
    # Names often sort by kind: 001-cats.png …, so a cut of neighbours would test on one kind alone.
    assert sorted(cut(HUNDRED)["val"]) not in [sorted(HUNDRED)[start : start + 20] for start in range(81)]


@pytest.mark.parametrize(
    ("ids", "given", "expected"),
    [
        pytest.param([], [], "leave none for train and val and test", id="none"),
        pytest.param(["a"], [None], "leave none for train and val", id="one"),
        pytest.param(["a", "b"], [None] * 2, "2 captioned images leave none for train", id="two"),
        pytest.param(HUNDRED, ["val", "test"] * 50, "leave none for train", id="none given to train on"),
    ],
)
def test_a_split_without_images_is_a_mistake_that_names_it_and_the_fractions(ids, given, expected):
    with pytest.raises(UserError, match=rf"{expected} \(data.val_fraction=0.2, data.test_fraction=0.1\)"):
        cut(ids, given)


def test_a_shuffle_depends_on_ids_and_seed_alone():
    ids = [f"{number}.png" for number in range(100)]
    order = [ids[row] for row in shuffled(range(100), ids, seed=3)]
    other_rows = [*ids[50:], "more.png", *ids[:50]]
    again = [other_rows[row] for row in shuffled(range(101), other_rows, seed=3)]
    assert [name for name in again if name != "more.png"] == order != ids
    assert [ids[row] for row in shuffled(range(100), ids, seed=4)] != order


@given(unique_ids, given_splits)
def test_clusters_of_one_and_a_single_stratum_change_nothing(ids, given):
    given = given[: len(ids)]
    try:
        plain = cut(ids, given)
    except UserError:  # too few are left to cut
        reject()
    assert cut(ids, given, together=range(len(ids)), strata=["all"] * len(ids)) == plain


@given(unique_ids, numbers)
def test_a_cluster_is_on_one_side(ids, numbers):
    together = numbers[: len(ids)]
    try:
        splits = split_rows(ids, [None] * len(ids), together=together, val_fraction=0.2, test_fraction=0.1, seed=0)
    except UserError:  # too few clusters
        reject()
    assert len({(together[row], split) for split in SPLITS for row in splits[split]}) == len(set(together))
    assert leaks(splits, together) == []


@given(unique_ids, numbers, given_splits)
def test_with_given_splits_only_given_rows_leak(ids, numbers, given):
    together, given = numbers[: len(ids)], given[: len(ids)]
    try:
        splits = split_rows(ids, given, together=together, val_fraction=0.2, test_fraction=0.1, seed=0)
    except UserError:  # too few are left to cut
        reject()
    side = {row: split for split in SPLITS for row in splits[split]}
    for row, other in leaks(splits, together):
        cluster = [its for its, number in enumerate(together) if number == together[row]]
        assert {side[row], side[other]} <= {given[its] for its in cluster}


@given(unique_ids, numbers, st.randoms())
def test_neither_the_order_of_images_nor_the_numbers_of_clusters_change_anything(ids, numbers, random):
    cluster_of = dict(zip(ids, numbers, strict=False))
    stratum_of = {name: str(number % 3) for name, number in cluster_of.items()}
    turned, renamed = random.sample(ids, len(ids)), random.sample(range(100), 13)
    try:
        splits = cut(ids, together=[cluster_of[name] for name in ids], strata=[stratum_of[name] for name in ids])
    except UserError:  # too few clusters
        reject()
    again = cut(
        turned,
        together=[renamed[cluster_of[name]] for name in turned],
        strata=[stratum_of[name] for name in turned],
    )
    assert {split: sorted(names) for split, names in again.items()} == {
        split: sorted(names) for split, names in splits.items()
    }


@given(st.lists(st.integers(1, 12), min_size=15, max_size=40), st.integers(0, 5))
def test_a_cut_is_at_most_its_fraction_and_short_of_it_by_less_than_a_cluster(sizes, seed):
    together = [number for number, size in enumerate(sizes) for _ in range(size)]
    ids = [str(row) for row in range(len(together))]
    rows = split_rows(ids, [None] * len(ids), together=together, val_fraction=0.3, test_fraction=0.2, seed=seed)
    smallest = min(sizes[together[row]] for row in rows["train"])
    for split, fraction in (("val", 0.3), ("test", 0.2)):
        count = round(fraction * len(ids))
        assert len(rows[split]) <= max(count, min(sizes))
        assert count - len(rows[split]) < smallest


def test_a_cluster_larger_than_a_split_is_trained_on():
    together = [0] * 40 + list(range(1, 61))
    for seed in range(20):
        splits = cut(HUNDRED, together=together, seed=seed)
        assert tuple(map(len, splits.values())) == (70, 20, 10)
        assert set(HUNDRED[:40]) <= set(splits["train"])


def test_where_all_clusters_are_larger_than_a_split_the_smallest_is_the_split():
    together = [0] * 40 + [1] * 12 + [2] * 15 + [3] * 33
    splits = cut(HUNDRED, together=together, val_fraction=0.05, test_fraction=0.05)
    assert splits["test"] == HUNDRED[40:52]
    assert splits["val"] == HUNDRED[52:67]


def test_too_few_clusters_are_a_mistake_that_counts_them():
    with pytest.raises(
        UserError,
        match=r"^100 captioned images, of which .* stay together \(2 sets\), leave none for train .*near_duplicates",
    ):
        cut(HUNDRED, together=[0] * 50 + [1] * 50)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(["test", None, None], {"test": ["a", "b", "c"]}, id="test"),
        pytest.param(["val", None, None], {"val": ["a", "b", "c"]}, id="validation"),
        pytest.param(["test", "val", None], {"test": ["a"], "val": ["b", "c"]}, id="both"),
        pytest.param(["train", "test", None], {"train": ["a"], "test": ["b", "c"]}, id="training and test"),
    ],
)
def test_a_row_without_a_split_goes_with_the_held_out_side_of_its_cluster(given, expected):
    ids = ["a", "b", "c", *HUNDRED]
    splits = cut(ids, [*given, *["train", "val", "test", "train"] * 25], together=[0, 0, 0, *range(1, 101)])
    assert {split: [name for name in names if name in "abc"] for split, names in splits.items()} == {
        **{split: [] for split in SPLITS},
        **expected,
    }


def test_training_rows_in_the_cluster_of_a_test_row_are_not_cut_for_validation():
    given = ["test"] * 10 + ["train"] * 90
    together = [*range(10), *range(90)]  # each given test row with a training row
    splits = cut(HUNDRED, given, together=together, val_fraction=0.8)
    assert splits["train"] == HUNDRED[10:20]


@given(st.lists(st.sampled_from("aaaaaabbbc"), min_size=40, max_size=200), st.integers(0, 5))
def test_each_split_has_the_same_share_of_each_stratum_within_two_rows(strata, seed):
    ids = [str(row) for row in range(len(strata))]
    splits = split_rows(ids, [None] * len(ids), strata=strata, val_fraction=0.2, test_fraction=0.1, seed=seed)
    for split, fraction in (("val", 0.2), ("test", 0.1)):
        found, wanted = Counter(strata[row] for row in splits[split]), len(splits[split]) / len(ids)
        assert all(abs(found[name] - wanted * size) < 2 for name, size in Counter(strata).items())
        assert len(splits[split]) == max(1, round(fraction * len(ids)))


@given(st.integers(0, 20))
def test_strata_have_their_share_of_whole_clusters(seed):
    # 60 clusters of 1 to 5 rows in two strata, one twice as large as the other.
    together = [number for number in range(60) for _ in range(1 + number % 5)]
    strata = ["rare" if number % 3 == 0 else "frequent" for number in together]
    ids = [str(row) for row in range(len(together))]
    splits = split_rows(
        ids, [None] * len(ids), together=together, strata=strata, val_fraction=0.2, test_fraction=0.2, seed=seed
    )
    for split in ("val", "test"):
        rare = sum(strata[row] == "rare" for row in splits[split])
        assert abs(rare - len(splits[split]) / 3) <= 5


def test_what_whole_clusters_leave_open_of_the_shares_of_strata_is_filled_all_the_same():
    # Three rows of each stratum are wanted for the test, and clusters have two.
    together = [row // 2 for row in range(120)]
    strata = ["even" if number % 2 == 0 else "odd" for number in together]
    ids = [str(row) for row in range(120)]
    assert len(cut(ids, together=together, strata=strata, test_fraction=0.05)["test"]) == 6


def test_leaks_are_named_with_a_row_on_the_side_that_matters_most():
    splits = {"train": [0, 5], "val": [1, 3, 7], "test": [2, 4, 6]}
    together = [0, 0, 0, 1, 1, 2, 2, 3]
    assert leaks(splits, together) == [(0, 1), (0, 2), (3, 4), (5, 6)]


def test_a_cluster_on_one_side_is_no_leak():
    assert leaks({"train": [0, 1], "val": [2, 3], "test": [4]}, [0, 0, 1, 1, 2]) == []


def test_there_are_no_leaks_in_a_single_split():
    assert leaks({"all": [0, 1]}, [0, 0]) == []


@pytest.fixture
def run(tmp_path):
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["a", "gone"], "val": ["b"], "test": ["ç"]}))
    return tmp_path


@pytest.mark.parametrize("name", ["", "splits.json"])
def test_splits_are_read_from_a_run_folder_or_its_file(run, name):
    assert read_given_splits(str(run / name)) == {"a": "train", "gone": "train", "b": "val", "ç": "test"}


def test_splits_fed_back_are_the_same_splits(tmp_path):
    splits = cut(HUNDRED)
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    given = read_given_splits(str(tmp_path))
    assert cut(HUNDRED, [given[name] for name in HUNDRED], val_fraction=0.5, seed=7) == splits


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("no json", "not JSON", id="no JSON"),
        pytest.param("\ud800", "not JSON", id="not UTF-8"),
        pytest.param('["a"]', "not of the form", id="a list"),
        pytest.param('{"all": ["a"]}', "not of the form", id="of an evaluation"),
        pytest.param('{"train": "a"}', "not of the form", id="a word"),
        pytest.param('{"train": [1]}', "not of the form", id="numbers"),
        pytest.param('{"train": ["a"], "test": ["a"]}', "'a' is in train and in test; keep one", id="twice"),
    ],
)
def test_a_file_of_another_form_is_a_mistake_that_names_the_setting(tmp_path, content, expected):
    file = tmp_path / "splits.json"
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError) as error:
        read_given_splits(str(tmp_path))
    assert str(error.value).startswith(f"data.splits_from={tmp_path}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "missing", "missing/splits.json"])
def test_a_missing_file_is_a_mistake_that_names_the_setting(tmp_path, name):
    with pytest.raises(UserError, match=r"data\.splits_from=.*name a run folder or its splits\.json"):
        read_given_splits(str(tmp_path / name))
