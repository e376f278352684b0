import numpy as np
import pytest

from captioning.sweeps.importance import Importance, importances


def of(values: list, scores: list) -> Importance:
    return importances({"x": values}, scores)[0]


@pytest.mark.parametrize(
    ("values", "scores", "share", "p"),
    [
        # H = 12/(9*10) * (6**2 + 15**2 + 24**2)/3 - 3*10 = 7.2, (7.2 - 3 + 1)/(9 - 3); 3! of 9!/(3!)**3 orders
        ([*"aaabbbccc"], [1, 2, 3, 4, 5, 6, 7, 8, 9], 5.2 / 6, 6 / 1680),
        # H = 12/(8*9) * (10**2 + 26**2)/4 - 3*9 = 16/3, (16/3 - 2 + 1)/(8 - 2); 2 of 8!/(4!)**2 orders
        ([1, 1, 1, 1, 2, 2, 2, 2], [1, 2, 3, 4, 5, 6, 7, 8], (16 / 3 - 1) / 6, 2 / 70),
        # the ranks of both groups have the same sum: H = 0, and chance gives (k - 1)/(n - k) more
        ([*"abbaabba"], [1, 2, 3, 4, 5, 6, 7, 8], 0, 1),
    ],
)
def test_importance_is_the_effect_size_of_kruskal_and_wallis(values, scores, share, p):
    found = of(values, scores)
    assert found.share == pytest.approx(share, abs=1e-12)
    assert found.p == pytest.approx(p, rel=0.35)  # of 4,999 orders drawn by chance


def test_one_job_that_diverged_changes_no_importance():
    calm, diverged = [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 1e9]
    assert of([*"aaaabbbb"], calm).share == of([*"aaaabbbb"], diverged).share


def test_equal_scores_share_their_rank():
    # ranks 2 2 2 4 5 6 7 8, whose mean is 4.5: of a sum of squares of 40, 4 * 2**2 * 2 are between the halves
    assert of([*"aaaabbbb"], [1, 1, 1, 2, 3, 4, 5, 6]).share == pytest.approx((0.8 * 7 - 1) / 6)


def test_a_number_with_many_values_is_judged_by_its_quarters():
    values = [10.0**-power for power in range(12)]
    scores = [abs(power - 5.5) for power in range(12)]  # the best in the middle, which no correlation would find
    found = of(values, scores)
    assert (found.quarters, found.values) == (True, 4)
    assert found.share is not None
    assert found.share > 0.5


def test_the_most_important_setting_comes_first():
    values = {"noise": [*"abababab"], "cause": [*"aaaabbbb"]}
    assert [one.setting for one in importances(values, [1, 2, 3, 4, 5, 6, 7, 8])] == ["cause", "noise"]


def test_settings_that_always_change_together_are_said_to():
    found = importances({"x": [1, 1, 1, 2, 2, 2, 2], "y": [*"aaabbbb"], "z": [*"aabbabb"]}, [1, 2, 3, 4, 5, 6, 7])
    assert {one.setting: one.alike for one in found} == {"x": ["y"], "y": ["x"], "z": []}


@pytest.mark.parametrize(
    ("values", "scores", "why_not"),
    [
        ([1], [0.5], "one finished job can't be compared"),
        ([1, 1, 2, 2], [0.5] * 4, "all jobs have the same number"),
        ([1, 1, 1, 1], [1, 2, 3, 4], "the finished jobs have one value of it"),
        ([1, 2, 3, 4], [1, 2, 3, 4], "no two finished jobs share a value of it"),
        # 4!/(2! 2!)/2! = 3 ways to halve four jobs: the clearest of them comes by chance one time in three
        ([1, 1, 2, 2], [1, 2, 3, 4], "4 finished jobs are too few to tell it from chance"),
        ([1, 1, 1, 2, 2, 2], [1, 2, 3, 4, 5, 6], "6 finished jobs are too few to tell it from chance"),
    ],
)
def test_what_cannot_be_said_is_not_said(values, scores, why_not):
    found = of(values, scores)
    assert (found.share, found.p, found.why_not) == (None, None, why_not)
    assert found.words == f"Can't be said: {why_not}."


def test_true_and_1_are_different_values():
    assert of([True, True, True, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6, 7]).values == 2


def test_noise_is_found_to_matter_one_time_in_twenty():
    generator = np.random.default_rng(0)
    labels = [*"aaaaabbbbbccccc"]
    found = [of(labels, generator.permutation(15).tolist()) for _ in range(200)]
    assert 0 < sum(one.p is not None and one.p < 0.05 for one in found) <= 20
