"""The numbers are those of pycocoevalcap and jiwer, on committed captions and on arbitrary ones."""

import json
from importlib.util import find_spec

import jiwer
import numpy as np
import pytest
from fixtures.make_captions import CAPTIONS, SCORES, judged_by_coco, judged_by_jiwer, read
from hypothesis import given
from hypothesis import strategies as st

from captioning.metrics import Scores, normalize, score

PREDICTIONS, REFERENCES = read()
EXPECTED = json.loads(SCORES.read_text(encoding="utf-8"))
ERROR_RATES = ["wer", "cer"]
COCO = ["bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider"]

with_coco = pytest.mark.skipif(
    find_spec("pycocoevalcap") is None,
    reason="pycocoevalcap, 104 MB, is no dependency; to compare with it: pip install pycocoevalcap==1.2",
)
each_name = pytest.mark.parametrize("name", [*ERROR_RATES, *COCO])
each_rate = pytest.mark.parametrize(("name", "oracle"), [("wer", jiwer.wer), ("cer", jiwer.cer)], ids=ERROR_RATES)

signs = ["a", "red", "Red", "t-shirt", "猫", "кошка", "हिन्दी", "قطة", "고양이", "😀", "❤️", "$5"]
texts = st.text(max_size=25) | st.lists(st.sampled_from(signs)).map(" ".join)
references = texts.filter(normalize)  # of references without a word jiwer makes something else: see test_metrics.py
captions = st.lists(st.sampled_from(["a", "red", "cat", "and", "dog"]), max_size=12).map(" ".join)


@pytest.fixture(scope="module")
def scores() -> Scores:
    return score(PREDICTIONS, REFERENCES)


def test_the_committed_captions_are_many_and_of_every_kind():
    text = CAPTIONS.read_text(encoding="utf-8")
    assert len(PREDICTIONS) >= 200
    assert {len(truths) for truths in REFERENCES} == {5}
    assert {0, 1, 5, 10, 20} <= {len(normalize(prediction).split()) for prediction in PREDICTIONS}
    assert all(sign in text for sign in ["'", "-", "é", "$", "7:45", "No. 7", "“", "🐶", "❤️"])


@each_name
def test_the_number_of_the_corpus_is_theirs(scores, name):
    assert scores.values()[name] == pytest.approx(EXPECTED[name]["corpus"], rel=0, abs=1e-9)


@each_name
def test_the_number_of_each_image_is_theirs(scores, name):
    assert scores.of_images(name) == pytest.approx(np.array(EXPECTED[name]["images"]), rel=0, abs=1e-9)


def test_the_committed_error_rates_are_what_jiwer_says():
    assert judged_by_jiwer(PREDICTIONS, REFERENCES) == {name: EXPECTED[name] for name in ERROR_RATES}


@with_coco
def test_the_committed_numbers_are_what_pycocoevalcap_says():
    said = judged_by_coco(PREDICTIONS, REFERENCES)
    for name in COCO:
        assert said[name]["corpus"] == pytest.approx(EXPECTED[name]["corpus"], rel=0, abs=1e-12)
        assert said[name]["images"] == pytest.approx(EXPECTED[name]["images"], rel=0, abs=1e-12)


@with_coco
@given(st.lists(st.tuples(captions, st.lists(captions, min_size=1, max_size=4)), min_size=1, max_size=5))
def test_arbitrary_captions_are_judged_as_by_pycocoevalcap(pairs):
    # The last has a word in any case: CIDEr's code stops where no reference has one.
    predictions, truths = zip(*pairs, ("a cat", ["a cat", "a red cat"]), strict=True)
    ours, theirs = score(predictions, truths), judged_by_coco(predictions, truths)
    for name in COCO:
        assert ours.values()[name] == pytest.approx(theirs[name]["corpus"], rel=0, abs=1e-9)
        assert ours.of_images(name) == pytest.approx(np.array(theirs[name]["images"]), rel=0, abs=1e-9)


@each_rate
@pytest.mark.parametrize("which", range(5))
def test_with_one_reference_each_the_rate_of_the_committed_captions_is_jiwers(name, oracle, which):
    truths = [image[which] for image in REFERENCES]
    expected = oracle(list(map(normalize, truths)), list(map(normalize, PREDICTIONS)))
    assert score(PREDICTIONS, [[truth] for truth in truths]).values()[name] == pytest.approx(expected, rel=1e-12)


@each_rate
@given(st.lists(st.tuples(texts, references), min_size=1, max_size=6))
def test_with_one_reference_each_the_rate_of_arbitrary_captions_is_jiwers(name, oracle, pairs):
    predictions, truths = zip(*pairs, strict=True)
    expected = oracle(list(map(normalize, truths)), list(map(normalize, predictions)))
    assert score(predictions, [[truth] for truth in truths]).values()[name] == pytest.approx(expected, rel=1e-12)


@each_rate
@given(texts, st.lists(references, min_size=1, max_size=4))
def test_of_several_references_the_nearest_counts(name, oracle, prediction, truths):
    expected = min(oracle(normalize(truth), normalize(prediction)) for truth in truths)
    assert score([prediction], [truths]).values()[name] == pytest.approx(expected, rel=1e-12)
