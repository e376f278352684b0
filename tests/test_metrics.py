import os
import subprocess
import sys
from math import exp, isfinite
from pathlib import Path

import pytest
from fixtures.make_captions import read
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import UserError
from captioning.metrics import HIGHER_IS_BETTER, Scores, normalize, score

PREDICTIONS, REFERENCES = read()
ONE_CAPTION = ["a dog", "A dog!", "a dog"]
RANGES = {
    **dict.fromkeys(["wer", "cer", "length_ratio"], (0, float("inf"))),
    **dict.fromkeys(["bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "exact_match", "unique_captions"], (0, 1)),
    **dict.fromkeys(["top_caption", "empty_captions", "repetition", "vocabulary_coverage", "copied_captions"], (0, 1)),
    "cider": (0, 10),
}

captions = st.lists(st.sampled_from(["a", "red", "Cat", "cat", "...", "dog", "猫", "😀"]), max_size=8).map(" ".join)
pairs = st.tuples(captions, st.lists(captions, min_size=1, max_size=4))
corpora = st.lists(pairs, min_size=1, max_size=8)


def judge(pairs, **keywords):
    """The scores of (prediction, references) pairs."""
    predictions, references = zip(*pairs, strict=True)
    return score(predictions, references, **keywords)


def value(name, *pairs, **keywords):
    """A number of (prediction, reference or list of references) pairs."""
    return judge([(p, [r] if isinstance(r, str) else r) for p, r in pairs], **keywords).values()[name]


def digits(scores: Scores):
    """Every number, over all images and of each."""
    return scores.values(), {name: list(scores.of_images(name)) for name in scores.names}


def of(name, predictions, **keywords):
    """A number that doesn't look at references."""
    return value(name, *((prediction, "a bird") for prediction in predictions), **keywords)


# Error rates


def test_nearest_is_the_lowest_rate_not_the_fewest_errors():
    # Against the first: 1 of 1 words. Against the second: 2 of 4.
    assert value("wer", ("a red", ["a", "a red cat sleeps"])) == 0.5


def test_of_two_references_equally_near_the_shorter_gives_its_length():
    # Against the first 2 of 4 words, against the second 1 of 2; the other caption is right and has 2.
    assert value("wer", ("red cat", ["red cat and dog", "red bird"]), ("y y", "y y")) == 1 / 4


@pytest.mark.parametrize("name", ["wer", "cer"])
def test_the_rate_of_several_captions_is_errors_over_words_not_a_mean_of_rates(name):
    # 1 error in 1 and none in 9 words or 17 characters: the mean of the rates would be 0.5.
    right = "a b c d e f g h i"
    assert value(name, ("b", "a"), (right, right)) == pytest.approx({"wer": 1 / 10, "cer": 1 / 18}[name])


@pytest.mark.parametrize("name", ["wer", "cer"])
def test_an_empty_prediction_misses_everything(name):
    assert value(name, ("", "a red cat")) == 1


@pytest.mark.parametrize(("prediction", "expected"), [("", 0), ("!", 0), ("c", 1), ("c d", 2)])
def test_a_reference_without_a_word_counts_as_one_word_long(prediction, expected):
    assert value("wer", (prediction, "?!")) == expected


def test_a_reference_without_a_word_counts_as_one_character_long():
    assert value("cer", ("cat", "?!"), ("a", "a")) == 3 / 2


def test_a_prediction_too_long_has_a_rate_above_one():
    assert value("wer", ("a cat a cat a cat", "cat")) == 5


def test_characters_include_the_spaces_between_words():
    assert value("cer", ("redcat", "red cat")) == pytest.approx(1 / 7)


def test_exact_match_takes_any_reference_and_leaves_articles_in():
    pairs = [("A cat.", ["a dog", "a cat"]), ("cat", ["a cat"]), ("a bird", ["a bird"]), ("", ["a bird"])]
    assert value("exact_match", *pairs) == 2 / 4


# N-grams


def test_bleu_counts_a_word_no_more_often_than_a_reference_has_it():
    # Papineni et al. 2002, example 2.
    truths = ["the cat is on the mat", "there is a cat on the mat"]
    assert value("bleu1", ("the the the the the the the", truths)) == pytest.approx(2 / 7)


def test_bleu_punishes_brevity_by_the_reference_nearest_in_length():
    # 4 words of 8: exp(1 - 8/4). The third reference is farther off.
    pair = ("a b c d", ["a b c d e f g h", "a b c d e f g h i"])
    assert value("bleu4", pair) == pytest.approx(exp(-1))


def test_rouge_weighs_recall_more():
    # The longest common subsequence is "a cat": precision 2/3, recall 1, beta 1.2.
    assert value("rouge_l", ("a red cat", "a cat")) == pytest.approx((1 + 1.44) * (2 / 3) / (1 + 1.44 * 2 / 3))


def test_cider_is_ten_where_every_caption_is_right_and_0_where_none_has_a_word_in_common():
    right = [("a b c d", "a b c d"), ("e f g h", "e f g h")]
    assert value("cider", *right) == pytest.approx(10)
    assert value("cider", ("a b c d", "e f g h"), ("e f g h", "a b c d")) == 0


def test_cider_gives_nothing_for_what_every_image_has():
    # "a" weighs nothing, "cat" and "a cat" are right in both; there are no longer n-grams.
    assert value("cider", ("a", "a cat"), ("a", "a dog")) == 0
    assert value("cider", ("a cat", "a cat"), ("a dog", "a dog")) == pytest.approx(5)


# What shows that a model has collapsed


def test_one_caption_for_everything():
    assert of("unique_captions", ONE_CAPTION) == pytest.approx(1 / 3)
    assert of("top_caption", ONE_CAPTION) == 1


def test_no_two_captions_alike():
    predictions = ["a cat", "a dog", "cat", "a", ""]
    assert of("unique_captions", predictions) == 1
    assert of("top_caption", predictions) == 1 / 5


def test_some_captions_alike():
    predictions = ["a cat", "a dog", "a bird", "a dog", "a cat"]
    assert of("unique_captions", predictions) == pytest.approx(3 / 5)
    assert of("top_caption", predictions) == 2 / 5


@pytest.mark.parametrize("order", [("b", "c", "a", "b", "c"), ("c", "c", "a", "b", "b")])
def test_of_two_captions_equally_frequent_the_first_in_the_alphabet_is_on_top(order):
    scores = judge([(prediction, ["a bird"]) for prediction in order])
    assert list(scores.of_images("top_caption")) == [prediction == "b" for prediction in order]


def test_captions_without_a_word_are_empty():
    assert of("empty_captions", ["", "...", "a cat", "a"]) == 2 / 4


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [
        (["a dog a dog"], 1 / 3),
        (["a dog a dog", "a cat"], 1 / 4),  # of all bigrams together
        (["a dog", "a dog"], 0),  # only within a caption
        (["a a a a a"], 3 / 4),
        (["cat", ""], 0),
    ],
)
def test_repetition_is_the_share_of_bigrams_said_before(predictions, expected):
    assert of("repetition", predictions) == expected


def test_length_is_compared_with_the_mean_length_of_a_images_references():
    # 2 and 0 words; 2 on the average, and 4.
    assert value("length_ratio", ("a cat", ["cat", "a red cat"]), ("", "a dog and cat")) == pytest.approx(2 / 6)


def test_vocabulary_is_covered_by_words_said_of_any_image():
    # The references' words are a, red, cat, dog; "a" and "dog" are said, "bird" isn't theirs.
    assert value("vocabulary_coverage", ("a dog", ["a red cat", "a cat"]), ("a bird", "a dog")) == pytest.approx(2 / 4)


def test_captions_that_are_a_training_caption_word_for_word_are_copied():
    predictions = ["a cat", "A dog!", "a red cat", ""]
    assert of("copied_captions", predictions, training_captions={"a cat", "a dog", "red"}) == 2 / 4


def test_copies_are_counted_only_where_training_captions_are_known():
    assert "copied_captions" not in score(["a"], [["a"]]).values()
    assert of("copied_captions", ["a"], training_captions=set()) == 0


# What holds for all


@given(corpora, st.data())
def test_the_order_of_images_changes_no_digit(pairs, data):
    order = data.draw(st.permutations(range(len(pairs))))
    values, of_images = digits(judge(pairs))
    reordered = {name: [numbers[number] for number in order] for name, numbers in of_images.items()}
    assert digits(judge([pairs[number] for number in order])) == (values, reordered)


def test_the_order_of_many_images_changes_no_digit():
    assert score(PREDICTIONS[::-1], REFERENCES[::-1]).values() == score(PREDICTIONS, REFERENCES).values()


@given(corpora, st.data())
def test_the_order_of_references_changes_no_digit(pairs, data):
    shuffled = [(prediction, data.draw(st.permutations(references))) for prediction, references in pairs]
    assert digits(judge(shuffled)) == digits(judge(pairs))


def test_the_order_of_many_references_changes_no_digit():
    backwards = score(PREDICTIONS, [references[::-1] for references in REFERENCES])
    assert digits(backwards) == digits(score(PREDICTIONS, REFERENCES))


def test_the_numbers_are_the_same_to_the_last_digit_in_any_process():
    program = "import test_metrics as t; print(t.digits(t.score(t.PREDICTIONS, t.REFERENCES)))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_each_image_twice_is_the_same_corpus():
    once, twice = score(PREDICTIONS, REFERENCES).values(), score(PREDICTIONS * 2, REFERENCES * 2).values()
    same = ["wer", "cer", "bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "exact_match", "length_ratio"]
    assert {name: twice[name] for name in same} == pytest.approx({name: once[name] for name in same}, rel=0, abs=1e-9)


@given(corpora, st.sets(captions.map(normalize)))
def test_numbers_are_in_their_range(pairs, training):
    values = judge(pairs, training_captions=training).values()
    assert values.keys() == RANGES.keys()
    for name, (low, high) in RANGES.items():
        assert low <= values[name] <= high + 1e-12, name


@given(captions, st.lists(captions, max_size=3))
def test_a_caption_that_equals_a_reference_is_perfect(caption, others):
    values = judge([(caption, [*others, caption])]).values()
    perfect = {"wer": 0, "cer": 0, "rouge_l": 1, "exact_match": 1}
    assert {name: values[name] for name in perfect} == perfect


@given(pairs, captions)
def test_a_further_reference_makes_no_caption_worse(pair, reference):
    prediction, references = pair
    before, after = judge([pair]).values(), judge([(prediction, [*references, reference])]).values()
    assert after["wer"] <= before["wer"]
    assert after["cer"] <= before["cer"]
    assert after["exact_match"] >= before["exact_match"]


@pytest.mark.parametrize(
    "pairs",
    [
        [("", ["a cat"])] * 3,
        [("cat", ["cat"])],
        [("a cat", ["?!"]), ("", ["..."])],
        [("", [""])],
        [("a cat", ["a cat"]), ("a dog", ["a", "dog", "a dog"]), ("", ["a bird", ""])],
        [("a red cat " * 1700, ["a dog " * 2500, "a red cat " * 1600]), ("cat", ["a cat"])],
    ],
    ids=["empty", "one word of one image", "only punctuation", "nothing", "few and many references", "5,000 words"],
)
def test_every_number_is_finite(pairs):
    scores = judge(pairs, training_captions={"a cat"})
    numbers = [*scores.values().values(), *scores.resampled(resamples=10).ravel()]
    numbers += [number for name in scores.names for number in scores.of_images(name)]
    assert all(map(isfinite, numbers))


# Mistakes


def test_predictions_and_references_must_be_as_many():
    with pytest.raises(UserError, match=r"^2 predictions, but references for 1 images$"):
        score(["a", "b"], [["a"]])


def test_without_captions_there_is_nothing_to_score():
    with pytest.raises(UserError, match=r"^there are no captions to score$"):
        score([], [])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_image_without_a_reference_is_named(number):
    references = [["a"], ["a"], ["a"]]
    references[number - 1] = []
    with pytest.raises(UserError, match=f"^image {number} has no reference"):
        score(["a", "a", "a"], references)


# Which way is better


def test_each_metric_knows_which_way_is_better():
    lower = {"loss", "wer", "cer", "top_caption", "empty_captions", "repetition", "copied_captions"}
    neither = {"length_ratio"}
    for name, higher in HIGHER_IS_BETTER.items():
        assert higher == (None if name in neither else name not in lower), name


def test_all_that_is_measured_has_a_direction():
    measured = score(["a"], [["a"]], training_captions=set()).names
    assert list(HIGHER_IS_BETTER) == [*measured, "loss", "token_accuracy"]
