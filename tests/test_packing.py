import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captioning.data.packing import IGNORE_INDEX, pack
from captioning.models.processor import make_processor

WORDS = ["a", "red", "cat", "dog", "sleeps"]
CAPTION = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)


@pytest.fixture(scope="module")
def tokenizer():
    return make_processor([" ".join(WORDS)], image_size=32, max_caption_tokens=32).tokenizer


def packed(tokenizer, *captions_of_each_image, max_caption_tokens=32, is_padding=None):
    return pack(
        list(captions_of_each_image),
        tokenizer,
        max_caption_tokens=max_caption_tokens,
        is_padding=is_padding or [False] * len(captions_of_each_image),
    )


def test_captions_stand_one_after_the_other_each_with_its_start_and_end(tokenizer):
    batch = packed(tokenizer, ["a cat", "dog"])
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == (
        ["[CLS]", "a", "cat", "[SEP]", "[CLS]", "dog", "[SEP]"]
    )


def test_images_are_padded_to_the_longest_and_not_further(tokenizer):
    batch = packed(tokenizer, ["a cat", "dog"], ["a red dog"])
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][1]) == (
        ["[CLS]", "a", "red", "dog", "[SEP]", "[PAD]", "[PAD]"]
    )


def test_the_attention_mask_is_zero_on_padding_alone(tokenizer):
    batch = packed(tokenizer, ["a cat", "dog"], ["a red dog"])
    assert batch["attention_mask"].tolist() == [[1] * 7, [1] * 5 + [0] * 2]


def test_positions_restart_at_each_caption(tokenizer):
    batch = packed(tokenizer, ["a cat", "dog"], ["a red dog"])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 0, 0]]


def test_each_token_knows_its_caption_and_padding_has_none(tokenizer):
    batch = packed(tokenizer, ["a cat", "dog"], ["a red dog"])
    assert batch["caption_index"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, -1, -1]]


def test_labels_are_the_tokens_but_for_the_first_of_each_caption(tokenizer):
    batch = packed(tokenizer, ["a cat", "dog"])
    expected = batch["input_ids"][0].tolist()
    expected[0] = expected[4] = IGNORE_INDEX
    assert batch["labels"].tolist() == [expected]


def test_labels_ignore_padding(tokenizer):
    assert packed(tokenizer, ["a cat", "dog"], ["a red dog"])["labels"][1, 5:].tolist() == [IGNORE_INDEX] * 2


def test_labels_of_a_padding_sample_are_ignored_all_over_and_those_of_others_are_not(tokenizer):
    labels = packed(tokenizer, ["a cat", "dog"], ["a cat", "dog"], is_padding=[True, False])["labels"]
    assert [(row != IGNORE_INDEX).sum() for row in labels] == [0, 3 + 2]


def test_each_caption_is_cut_by_itself_and_keeps_its_end(tokenizer):
    batch = packed(tokenizer, ["a red cat sleeps", "dog", "a red dog sleeps"], max_caption_tokens=4)
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == (
        ["[CLS]", "a", "red", "[SEP]", "[CLS]", "dog", "[SEP]", "[CLS]", "a", "red", "[SEP]"]
    )


def test_all_tensors_are_int64_and_of_one_shape(tokenizer):
    tensors = packed(tokenizer, ["a cat", "dog"], ["a red dog"]).values()
    assert {(tensor.dtype, tensor.shape) for tensor in tensors} == {(torch.int64, (2, 7))}


@settings(max_examples=50, deadline=None)
@given(captions=st.lists(CAPTION, min_size=1, max_size=5), longest=st.integers(3, 16))
@pytest.mark.parametrize("name", ["input_ids", "attention_mask"])
def test_with_one_caption_for_each_image_a_batch_is_that_of_the_tokenizer(tokenizer, name, captions, longest):
    usual = tokenizer(captions, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    ours = packed(tokenizer, *([caption] for caption in captions), max_caption_tokens=longest)
    assert torch.equal(ours[name], usual[name])
