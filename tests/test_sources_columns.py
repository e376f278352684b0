import pytest
from datasets import ClassLabel

from captioning.data.rows import Columns
from captioning.data.sources.columns import find_columns, name_classes
from captioning.errors import UserError


def found(names: str, **columns: str):
    return find_columns("here", names.split(), Columns(**columns))


def mistake(names: str, **columns: str) -> str:
    with pytest.raises(UserError) as caught:
        found(names, **columns)
    return str(caught.value)


@pytest.mark.parametrize("name", ["file_name", "image", "filename", "image_path", "image_file", "img", "path", "url"])
def test_the_usual_names_of_the_image_column_are_known(name):
    assert found(f"text {name}").image == name


@pytest.mark.parametrize("name", ["text", "caption", "captions"])
def test_the_usual_names_of_the_caption_column_are_known(name):
    assert found(f"image {name}").captions == (name,)


@pytest.mark.parametrize("wanted", [{}, {"caption": "caption"}, {"caption": "caption_*"}])
def test_numbered_columns_are_found_in_the_order_of_their_numbers(wanted):
    names = "image caption_10 caption_9 caption_0 captioner"
    assert found(names, **wanted).captions == ("caption_0", "caption_9", "caption_10")


def test_a_column_of_that_very_name_goes_before_numbered_ones():
    assert found("image caption_0 caption").captions == ("caption",)


def test_a_pattern_may_be_any():
    assert found("image en_a en_b de_a", caption="en_*").captions == ("en_a", "en_b")


def test_a_pattern_without_a_column_is_refused():
    assert mistake("image text", caption="alt_*").startswith("data.caption_column=alt_*: no such column in here")


def test_captions_of_several_columns_are_put_together():
    columns = found("image caption_0 caption_1")
    assert columns.cells({"image": "a", "caption_0": ["x", "y"], "caption_1": "z"}).captions == ["x", "y", "z"]


def test_the_column_split_is_used_where_there_is_one():
    assert found("image text split").split == "split"
    assert found("image text").split is None
    assert found("image text split fold", split="fold").split == "fold"
    assert found("image split", caption="split").split is None


def test_cells_are_those_of_the_named_columns():
    columns = found("i c k s g t", image="i", caption="c", id="k", split="s", group="g", stratify="t")
    assert columns.cells(dict(zip("icksgt", "123456", strict=True))) == ("1", "2", "3", "4", "5", "6")
    assert columns.cells({"i": "1"}) == ("1", None, None, None, None, None)
    assert columns.texts == ["c", "k", "s", "g", "t"]


def test_a_column_of_images_that_is_missing_is_answered_with_the_nearest():
    assert mistake("file_nam text") == "data.image_column=file_name: no such column in here; did you mean file_nam?"


def test_classes_are_known_by_their_names_and_a_missing_one_is_none():
    named = [name_classes({"kind": number}, {"kind": ClassLabel(names=["cat", "dog"])}) for number in (1, -1, None, 2)]
    assert [row["kind"] for row in named] == ["dog", None, None, 2]
