import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from experiments.common.statistics import (
    anytime,
    difference,
    evaluations_to_reach,
    improvement,
    in_points,
    iqm,
    iqm_curve,
    mean,
    mean_difference,
    mean_wer_increase,
    profile,
)
from shrinkml_env.evaluation.intervals import Estimate, wer_increase


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_anytime_by_hand():
    rewards, feasible = [0.1, 0.9, 0.3, 0.2, 0.5], [False, False, True, True, True]
    assert anytime(rewards, feasible, 7, worst=-1).tolist() == [-1, -1, 0.3, 0.3, 0.5, 0.5, 0.5]
    assert anytime([], [], 2, worst=0).tolist() == [0, 0]


@given(st.lists(st.floats(-1, 1), min_size=1), st.integers(1, 30))
def test_anytime_never_falls(rewards, length):
    curve = anytime(rewards, [True] * len(rewards), length, worst=-2)
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] == max(rewards[:length])


def test_mean_difference(rng):
    # Two groups of one distribution: the interval of a normal approximation.
    one, other = rng.normal(0, 1, 400), rng.normal(0, 1, 400)
    found = mean_difference(one, other)
    half = 1.96 * np.sqrt(one.var() / 400 + other.var() / 400)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    # Fewer than ten seeds tell a difference, and no interval.
    found = mean_difference([1.0] * 10, [0.0, 1.0] * 4)
    assert found.value == 0.5
    assert np.isnan([found.low, found.high]).all()


def test_evaluations_to_reach():
    curve = np.array([0.1, 0.5, 0.5, 0.99, 1.0])
    assert evaluations_to_reach(curve, 0.5) == 2
    assert evaluations_to_reach(curve, 0.99) == 4
    assert evaluations_to_reach(curve, 1.1) is None


def test_iqm_is_the_mean_of_the_middle_half(rng):
    scores = rng.normal(size=(20, 4))
    found = iqm(scores)
    assert found.value == pytest.approx(trim_mean(scores.ravel(), 0.25))
    assert found.low < found.value < found.high
    curve = iqm_curve(np.stack([scores, scores + 1], axis=2), [0, 1])
    assert [point.value for point in curve] == pytest.approx([found.value, found.value + 1])


@pytest.mark.slow
def test_intervals_are_the_same_each_time_and_disturb_nobody(rng):
    scores = rng.normal(size=(10, 2))
    np.random.seed(5)  # noqa: NPY002
    drawn = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert iqm(scores) == iqm(scores)
    assert difference(scores, scores + 1) == difference(scores, scores + 1)
    assert np.random.random() == drawn  # noqa: NPY002


@pytest.fixture
def few_resamples(monkeypatch):
    """An interval of 300 resamples is as true as one of 2,000, only rougher at its ends."""
    monkeypatch.setattr("experiments.common.statistics.RESAMPLES", 300)


@pytest.mark.slow
def test_a_difference_excludes_zero_only_where_there_is_one(few_resamples, rng):
    scores = rng.normal(size=(10, 5))
    clear = difference(scores + 3, rng.normal(size=(10, 5)))
    assert clear.low > 2
    none = difference(scores, rng.normal(size=(10, 5)))
    assert none.low < 0 < none.high
    assert improvement(scores + 100, scores).value == 1.0
    assert improvement(scores, scores).value == 0.5


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_as_often_as_it_says(few_resamples, rng):
    covered = 0
    for _ in range(60):
        estimate = difference(rng.normal(size=(10, 3)), rng.normal(size=(10, 3)))
        covered += estimate.low <= 0 <= estimate.high
    assert covered >= 50


def test_profile():
    assert profile(np.array([[0.1, 0.5], [0.9, 0.9]]), [0.0, 0.5, 0.95]).tolist() == [1.0, 0.5, 0.0]


def test_a_mean_has_an_interval_of_its_seeds(rng):
    estimate = mean([1.0, 2.0, 3.0, 4.0, 5.0] * 2)
    assert estimate.value == 3
    assert 1.9 < estimate.low < 2.4 < 3.6 < estimate.high < 4.1
    # The standard error is 1.41 / sqrt(10).
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 2**0.5 / 10**0.5, rel=0.1)
    # Too few for one.
    assert mean([0.5, 0.25, 0.3]) == pytest.approx((0.35, np.nan, np.nan), nan_ok=True)
    assert str(iqm(rng.normal(size=(9, 4)))).count("[") == 0
    assert np.isnan(difference(rng.normal(size=(10, 4)), rng.normal(size=(9, 4))).low)


def test_a_wer_increase_by_hand():
    words, before = [10] * 400, [1] * 400
    assert wer_increase(before, before, words) == (0, 0, 0)
    # One more error in each second utterance: 5 %, with a standard error of 10 * 0.5 / sqrt(400) / 10 = 0.25 points.
    after = [1 + index % 2 for index in range(400)]
    both, one = wer_increase(after, before, words), wer_increase(after, before, words, one_sided=True)
    assert both.value == one.value == pytest.approx(0.05)
    assert both.low == pytest.approx(0.05 - 1.96 * 0.0025, abs=5e-4)
    assert both.high == pytest.approx(0.05 + 1.96 * 0.0025, abs=5e-4)
    assert one.low == -np.inf
    assert one.high == pytest.approx(0.05 + 1.645 * 0.0025, abs=5e-4)
    # Pairing matters: both have the same errors, in other utterances.
    crossed = wer_increase(after, after[::-1], words)
    assert crossed.value == 0
    assert crossed.high == pytest.approx(1.96 * 0.005, abs=1e-3)


def test_a_mean_of_seeds_is_as_uncertain_as_its_seeds_and_its_utterances():
    words, before = [10] * 400, [[1] * 400]
    # All utterances alike, so that only the seeds count: 6 have no more errors, 6 have one more in each utterance:
    # a binomial, of which 2.5 % lie at or below 3 and at or above 9 of 12 (its tails beyond these are 1.9 % each).
    seeds = [[1] * 400] * 6 + [[2] * 400] * 6
    assert mean_wer_increase(seeds, before, words) == pytest.approx((0.05, 0.025, 0.075), abs=1e-9)
    # All seeds alike, so that only the utterances count, as with a single model.
    after = [1 + index % 2 for index in range(400)]
    found = mean_wer_increase([after] * 10, before, words)
    assert found == pytest.approx(wer_increase(after, before[0], words), abs=5e-4)
    # Few seeds tell a difference, and no interval.
    for groups in (([after] * 3, before), ([after], before * 9)):
        found = mean_wer_increase(*groups, words)
        assert found.value == 0.05
        assert np.isnan([found.low, found.high]).all()


def test_no_interval_from_one_utterance():
    change = wer_increase([2], [1], [4])
    assert change.value == 0.25
    assert np.isnan([change.low, change.high]).all()


def test_increases_in_percentage_points():
    assert in_points(Estimate(0.0123, -0.001, 0.025)) == "+1.23 [-0.10, +2.50]"
    assert in_points(Estimate(-0.0123, -np.inf, 0.025)) == "-1.23 (+2.50)"
    assert in_points(Estimate(0.25, np.nan, np.nan)) == "+25.00"
