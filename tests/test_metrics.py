import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioning.errors import UserError
from captioning.metrics import CharErrorRate, WordErrorRate, direction, normalize

RATES = [(WordErrorRate, jiwer.wer), (CharErrorRate, jiwer.cer)]
both_rates = pytest.mark.parametrize(("metric", "oracle"), RATES, ids=["wer", "cer"])

texts = st.text(max_size=25) | st.lists(st.sampled_from(["a", "red", "Red", "t-shirt", "猫", "😀", "$5"])).map(" ".join)
references = texts.filter(normalize)  # jiwer has no rate for a reference without a word
pairs = st.lists(st.tuples(texts, references), min_size=1, max_size=6)


def rate(metric, *pairs):
    """The rate of (prediction, reference or list of references) pairs."""
    measured = metric()
    for prediction, truth in pairs:
        measured.update([prediction], [[truth] if isinstance(truth, str) else truth])
    return measured.compute().item()


@both_rates
@given(pairs)
def test_with_one_reference_each_the_rate_is_jiwers(metric, oracle, pairs):
    predictions, truths = zip(*pairs, strict=True)
    expected = oracle([normalize(text) for text in truths], [normalize(text) for text in predictions])
    assert rate(metric, *pairs) == pytest.approx(expected, rel=1e-6)


@both_rates
@given(texts, st.lists(references, min_size=1, max_size=4))
def test_of_several_references_the_nearest_counts(metric, oracle, prediction, truths):
    expected = min(oracle(normalize(truth), normalize(prediction)) for truth in truths)
    assert rate(metric, (prediction, truths)) == pytest.approx(expected, rel=1e-6)


def test_nearest_is_the_lowest_rate_not_the_fewest_errors():
    # Against the first: 1 of 1 words. Against the second: 2 of 4.
    assert rate(WordErrorRate, ("a red", ["a", "a red cat sleeps"])) == 0.5


@both_rates
@given(texts, st.permutations(["a red cat", "a cat", "red", "a dog sleeps"]))
def test_the_order_of_references_changes_nothing(metric, oracle, prediction, truths):
    # The second caption, which is right, shows which of two equally near references gave its length to the sum.
    other = ("y y y", "y y y")
    assert rate(metric, (prediction, truths), other) == rate(metric, (prediction, sorted(truths)), other)


def test_the_rate_of_several_captions_is_errors_over_words_not_a_mean_of_rates():
    # 1 error in 1 word and none in 9: the mean of the rates would be 0.5.
    assert rate(WordErrorRate, ("b", "a"), ("a b c d e f g h i", "a b c d e f g h i")) == pytest.approx(0.1)


@both_rates
@given(pairs, st.data())
def test_however_captions_are_dealt_out_to_processes_the_rate_is_the_same(metric, oracle, pairs, data):
    owners = data.draw(st.lists(st.integers(0, 2), min_size=len(pairs), max_size=len(pairs)))
    processes = [metric() for _ in range(3)]
    for number, process in enumerate(processes):
        own = [pair for owner, pair in zip(owners, pairs, strict=True) if owner == number]
        process.update([prediction for prediction, _ in own], [[truth] for _, truth in own])
    for process in processes[1:]:
        processes[0].merge_state(process)  # as DDP reduces the states
    assert processes[0].compute().item() == rate(metric, *pairs)


@both_rates
def test_an_empty_prediction_misses_everything(metric, oracle):
    assert rate(metric, ("", "a red cat")) == 1.0


@pytest.mark.parametrize(("prediction", "expected"), [("", 0.0), ("!", 0.0), ("cat", 1.0), ("red cat", 2.0)])
def test_a_reference_without_a_word_counts_as_one_word_long(prediction, expected):
    assert rate(WordErrorRate, (prediction, "?!")) == expected


def test_a_prediction_too_long_has_a_rate_above_one():
    assert rate(WordErrorRate, ("a cat a cat a cat", "cat")) == 5.0


def test_characters_include_the_spaces_between_words():
    assert rate(CharErrorRate, ("redcat", "red cat")) == pytest.approx(1 / 7)


def test_predictions_and_references_must_be_as_many():
    with pytest.raises(ValueError, match="shorter"):
        WordErrorRate().update(["a", "b"], [["a"]])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("t-shirt", "t - shirt"),
        ("A Red CAT", "a red cat"),
        ("a cat.", "a cat"),
        ("  a\tcat\n", "a cat"),
        ("ﬁsh", "fish"),
        ("①", "1"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER C}at", "cat"),
        ("cafe\N{COMBINING ACUTE ACCENT}", "café"),
        ("don\N{RIGHT SINGLE QUOTATION MARK}t", "don't"),
        ("costs $5", "costs $ 5"),
        ("一只猫", "一 只 猫"),
        ("co\N{SOFT HYPHEN}operate", "cooperate"),
        ("❤\N{VARIATION SELECTOR-16}", "❤"),
    ],
)
def test_normalized_alike(one, other):
    assert normalize(one) == normalize(other)


@pytest.mark.parametrize(
    "caption", ["a 😀 face", "кошка", "γάτα", "हिन्दी", "ไทย", "고양이", "ねこ", "قطة", "חתול", "naïve café", "7 cats"]
)
def test_normalization_leaves_words_of_any_script_alone(caption):
    assert normalize(caption) == caption


@given(st.text())
def test_normalized_words_are_one_space_apart(text):
    assert normalize(text) == " ".join(normalize(text).split())


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [("val/loss", "min"), ("val/wer", "min"), ("val/cer", "min"), ("val/token_accuracy", "max")],
)
def test_which_way_is_better(monitor, expected):
    assert direction(monitor) == expected


@pytest.mark.parametrize("monitor", ["val/wrr", "wer", "test/wer", "val/"])
def test_no_such_metric_is_answered_with_the_nearest(monitor):
    with pytest.raises(UserError, match=f"^monitor={monitor}: .*val/wer"):
        direction(monitor)
