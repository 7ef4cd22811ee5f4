import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from experiments.statistics import (
    anytime,
    difference,
    evaluations_to_reach,
    improvement,
    iqm,
    iqm_curve,
    profile,
    wer_change,
)
from shrinkml_env import Evaluation

RNG = np.random.default_rng(0)


def test_anytime_by_hand():
    rewards, feasible = [0.1, 0.9, 0.3, 0.2, 0.5], [False, False, True, True, True]
    assert anytime(rewards, feasible, 7, worst=-1).tolist() == [-1, -1, 0.3, 0.3, 0.5, 0.5, 0.5]
    assert anytime([], [], 2, worst=0).tolist() == [0, 0]


@given(st.lists(st.floats(-1, 1), min_size=1), st.integers(1, 30))
def test_anytime_never_falls(rewards, points):
    curve = anytime(rewards, [True] * len(rewards), points, worst=-2)
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] == max(rewards[:points])


def test_evaluations_to_reach():
    curve = np.array([0.1, 0.5, 0.5, 0.99, 1.0])
    assert evaluations_to_reach(curve, 0.5) == 2
    assert evaluations_to_reach(curve, 0.99) == 4
    assert evaluations_to_reach(curve, 1.1) is None


def test_iqm_is_the_mean_of_the_middle_half():
    scores = RNG.normal(size=(20, 4))
    found = iqm(scores)
    assert found.value == pytest.approx(trim_mean(scores.ravel(), 0.25))
    assert found.low < found.value < found.high
    curve = iqm_curve(np.stack([scores, scores + 1], axis=2), [0, 1])
    assert [point.value for point in curve] == pytest.approx([found.value, found.value + 1])


def test_a_difference_excludes_zero_only_where_there_is_one():
    scores = RNG.normal(size=(10, 5))
    clear = difference(scores + 3, RNG.normal(size=(10, 5)))
    assert clear.low > 2
    none = difference(scores, RNG.normal(size=(10, 5)))
    assert none.low < 0 < none.high
    assert improvement(scores + 100, scores).value == 1.0
    assert improvement(scores, scores).value == 0.5


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for _ in range(60):
        estimate = difference(RNG.normal(size=(10, 3)), RNG.normal(size=(10, 3)))
        covered += estimate.low <= 0 <= estimate.high
    assert covered >= 50


def test_profile():
    assert profile(np.array([[0.1, 0.5], [0.9, 0.9]]), [0.0, 0.5, 0.95]).tolist() == [1.0, 0.5, 0.0]


def measured(edits, words):
    return Evaluation({}, tuple(edits), tuple(words), params=1, size_ratio=1.0, macs=1, capped=0)


def test_wer_change_is_paired():
    rng = np.random.default_rng(0)
    words = rng.integers(5, 15, 400)
    errors = rng.integers(0, 5, 400)
    before = measured(errors, words)
    # One more error in each utterance: between utterances nothing differs but their length.
    after = measured(errors + 1, words)
    change = wer_change(before, after)
    assert change.value == pytest.approx(400 / words.sum())
    # Delta method for the ratio 400 / words: its relative error is that of the mean length.
    spread = change.value * words.std() / words.mean() / np.sqrt(400)
    assert change.high - change.low == pytest.approx(2 * 1.96 * spread, rel=0.05)
    assert wer_change(before, before) == (0, 0, 0)
    assert wer_change(before, after) == change


def test_no_interval_from_one_utterance():
    change = wer_change(measured([1], [4]), measured([2], [4]))
    assert change.value == 0.25
    assert np.isnan([change.low, change.high]).all()
