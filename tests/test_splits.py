import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from captioning.data.splits import SPLITS, shuffled, split_rows
from captioning.errors import UserError

HUNDRED = [f"{number}.png" for number in range(100)]
unique_ids = st.lists(st.text(max_size=5), min_size=3, max_size=60, unique=True)
given_splits = st.lists(st.sampled_from(["train", "val", "test", None, None, None]), min_size=60, max_size=60)


def cut(ids, given=None, *, val_fraction=0.2, test_fraction=0.1, seed=0):
    """The ids in each split."""
    given = [None] * len(ids) if given is None else given
    rows = split_rows(ids, given, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    return {split: [ids[row] for row in rows[split]] for split in SPLITS}


@pytest.mark.parametrize(
    ("val_fraction", "test_fraction", "expected"),
    [(0.2, 0.1, (70, 20, 10)), (0.015, 0.5, (48, 2, 50)), (0.001, 0.001, (98, 1, 1))],
)
def test_fractions_are_shares_of_all_pictures_and_one_at_least(val_fraction, test_fraction, expected):
    splits = cut(HUNDRED, val_fraction=val_fraction, test_fraction=test_fraction)
    assert tuple(map(len, splits.values())) == expected


def test_three_pictures_are_enough():
    assert [len(ids) for ids in cut(["a", "b", "c"]).values()] == [1, 1, 1]


@given(unique_ids, given_splits)
def test_every_picture_is_in_exactly_one_split(ids, given):
    try:
        splits = cut(ids, given[: len(ids)])
    except UserError:  # too few are left to cut
        reject()
    assert sorted(name for names in splits.values() for name in names) == sorted(ids)


@given(unique_ids, given_splits)
def test_validation_and_test_pictures_that_the_data_gives_stay_what_they_are(ids, given):
    try:
        splits = cut(ids, given[: len(ids)])
    except UserError:  # too few are left to cut
        reject()
    for split in ("val", "test"):
        wanted = [name for name, its in zip(ids, given, strict=False) if its == split]
        assert not wanted or splits[split] == wanted


def test_a_test_split_that_the_data_lacks_is_cut_from_training_pictures_alone():
    given = ["val"] * 50 + ["train"] * 50
    splits = cut(HUNDRED, given)
    assert splits["val"] == HUNDRED[:50]
    assert len(set(splits["test"]) & set(HUNDRED[50:])) == 10


@given(st.permutations(HUNDRED))
def test_the_order_of_pictures_changes_nothing(ids):
    assert {split: sorted(names) for split, names in cut(ids).items()} == {
        split: sorted(names) for split, names in cut(HUNDRED).items()
    }


def test_rows_of_a_split_are_in_the_order_of_the_data():
    rows = split_rows(HUNDRED, [None] * 100, val_fraction=0.2, test_fraction=0.1, seed=0)
    assert all(rows[split] == sorted(rows[split]) for split in SPLITS)


@pytest.mark.parametrize("split", ["val", "test"])
def test_another_seed_cuts_other_pictures(split):
    assert set(cut(HUNDRED, seed=0)[split]) != set(cut(HUNDRED, seed=1)[split])


def test_the_cut_is_not_along_the_names():
    # Names often sort by kind: 001-cats.png …, so a cut of neighbours would test on one kind alone.
    assert sorted(cut(HUNDRED)["val"]) not in [sorted(HUNDRED)[start : start + 20] for start in range(81)]


@pytest.mark.parametrize(
    ("ids", "given", "expected"),
    [
        pytest.param([], [], "leave none for train and val and test", id="none"),
        pytest.param(["a"], [None], "leave none for train and val", id="one"),
        pytest.param(["a", "b"], [None] * 2, "2 captioned pictures leave none for train", id="two"),
        pytest.param(HUNDRED, ["val", "test"] * 50, "leave none for train", id="none given to train on"),
    ],
)
def test_a_split_without_pictures_is_a_mistake_that_names_it_and_the_fractions(ids, given, expected):
    with pytest.raises(UserError, match=rf"{expected} \(data.val_fraction=0.2, data.test_fraction=0.1\)"):
        cut(ids, given)


def test_a_shuffle_depends_on_ids_and_seed_alone():
    ids = [f"{number}.png" for number in range(100)]
    order = [ids[row] for row in shuffled(range(100), ids, seed=3)]
    other_rows = [*ids[50:], "more.png", *ids[:50]]
    again = [other_rows[row] for row in shuffled(range(101), other_rows, seed=3)]
    assert [name for name in again if name != "more.png"] == order != ids
    assert [ids[row] for row in shuffled(range(100), ids, seed=4)] != order
