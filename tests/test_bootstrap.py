import numpy as np
import pytest
from fixtures.make_captions import read

from captioning.metrics import Scores, normalize, score
from captioning.metrics.bootstrap import draws, paired_p_values, percentile_intervals
from captioning.metrics.error_rates import exact_match
from captioning.metrics.metric import RatioOfSums

PREDICTIONS, REFERENCES = read()
# Of the others, what one image gets depends on which others there are, and is kept as it is.
OF_IMAGES_ALONE = (
    *("wer", "cer", "bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "exact_match"),
    *("empty_captions", "repetition", "length_ratio"),
)


def right_or_wrong(hits: np.ndarray) -> Scores:
    """Exact match of as many images as there are hits and misses."""
    return Scores((RatioOfSums(exact_match),), (np.column_stack([hits, np.ones(len(hits))]).astype(float),))


def test_the_same_captions_have_the_same_intervals():
    once, again = (score(PREDICTIONS[:50], REFERENCES[:50]).intervals() for _ in range(2))
    assert once == again


def test_another_seed_draws_other_images():
    scores = score(PREDICTIONS[:50], REFERENCES[:50])
    assert (scores.resampled(resamples=5, seed=0) != scores.resampled(resamples=5, seed=1)).any()


def test_every_number_lies_in_its_interval():
    scores = score(PREDICTIONS, REFERENCES, training_captions=set(map(normalize, PREDICTIONS[::3])))
    intervals = scores.intervals()
    assert list(intervals) == scores.names
    for name, value in scores.values().items():
        low, high = intervals[name]
        assert low < value < high, name


def test_an_interval_leaves_out_a_fortieth_at_each_end():
    (interval,) = percentile_intervals(np.arange(1001.0)[:, None])
    assert interval == (25, 975)


def test_a_p_value_is_twice_the_smaller_tail():
    differences = np.array([[-1.0] * 9 + [1.0] * 90])
    assert paired_p_values(differences.T, np.array([99])) == pytest.approx(2 * (1 + 9) / (1 + 99))


def test_no_difference_has_a_p_value_of_one():
    assert paired_p_values(np.zeros((99, 1)), np.array([0])) == 1


def test_no_p_value_is_below_that_of_all_images_differing_the_same_way():
    assert paired_p_values(np.ones((1999, 1)), np.array([4])) == 1 / 8
    assert paired_p_values(np.ones((1999, 1)), np.array([40])) == 2 / 2000


def test_resampled_numbers_are_those_of_the_captions_drawn():
    images, resamples = 80, 20
    predictions, references = PREDICTIONS[:images], REFERENCES[:images]
    scores = score(predictions, references)
    columns = [scores.names.index(name) for name in OF_IMAGES_ALONE]
    (drawn_times,) = draws(images, resamples=resamples, seed=7)
    for times, resampled in zip(drawn_times.astype(int), scores.resampled(resamples=resamples, seed=7), strict=True):
        drawn = np.repeat(np.arange(images), times)
        again = score([predictions[i] for i in drawn], [references[i] for i in drawn]).values()
        expected = np.array([again[name] for name in OF_IMAGES_ALONE])
        assert resampled[columns] == pytest.approx(expected, rel=0, abs=1e-9)


def test_each_resample_has_as_many_images_as_there_are():
    (times,) = draws(7, resamples=50)
    assert (times.sum(axis=1) == 7).all()
    assert (times.sum(axis=0) > 0).all()


def test_many_images_are_resampled_as_often_as_asked():
    scores = right_or_wrong(np.arange(5000) % 3 == 0)
    resampled = scores.resampled(resamples=500)  # made in three parts
    assert resampled.shape == (500, 1)
    assert len(set(resampled.ravel())) > 100


def test_two_models_are_resampled_alike():
    hits = np.arange(60) % 5 == 0
    one, other = right_or_wrong(hits), right_or_wrong(~hits)
    assert one.resampled() + other.resampled() == pytest.approx(np.ones((2000, 1)))


def test_a_single_image_has_no_interval():
    assert score(["a cat"], [["a dog"]]).intervals() == {}


def test_the_interval_covers_the_true_rate_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = []
    for true in (0.3, 0.5, 0.7) * 100:
        low, high = right_or_wrong(generator.random(100) < true).intervals()["exact_match"]
        covered.append(low <= true <= high)
    assert 0.90 <= np.mean(covered) <= 0.98


def test_no_share_is_above_one_in_any_resample():
    scores = score(PREDICTIONS, REFERENCES)
    column = scores.names.index("vocabulary_coverage")
    assert scores.resampled()[:, column].max() <= 1
