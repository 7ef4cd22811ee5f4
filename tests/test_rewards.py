import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.evaluation.result import Evaluation
from shrinkml_env.rewards import REWARDS, Linear, Threshold


def measured(edits: int, size_ratio: float, words: int = 1000) -> Evaluation:
    return Evaluation({"layer": 1}, (edits,), (words,), 1, size_ratio, 1, 0)


ORIGINAL = measured(30, 1.0)  # e0 = 0.03


def test_linear_by_hand():
    # -(0.045 - 0.03) - 0.2 * 0.4 = -0.015 - 0.08
    assert Linear(size_weight=0.2)(measured(45, 0.4), ORIGINAL) == pytest.approx(-0.095)
    # The original itself: -lambda.
    assert Linear()(ORIGINAL, ORIGINAL) == pytest.approx(-0.1)


def test_threshold_by_hand():
    reward = Threshold(tolerance=0.01, punishment=2)
    assert reward(measured(39, 0.25), ORIGINAL) == 0.75
    assert reward(measured(40, 0.25), ORIGINAL) == 0.75  # just at e0 + eps
    assert reward(measured(41, 0.25), ORIGINAL) == -2.0
    assert reward(measured(0, 0.25), ORIGINAL) == 0.75


@given(edits=st.integers(0, 100_000), tolerated=st.integers(0, 1000))
def test_threshold_is_exact_at_its_edge(edits, tolerated):
    allowed = Threshold(tolerance=tolerated / 1000)(measured(edits, 0.5), ORIGINAL) > 0
    assert allowed == (edits <= 30 + tolerated)


@pytest.mark.parametrize("name", REWARDS)
@given(edits=st.integers(0, 10_000_000), size_ratio=st.floats(1e-6, 1))
def test_every_reward_is_finite_and_the_sum_of_its_terms(name, edits, size_ratio):
    reward = REWARDS[name]()
    evaluation = measured(edits, size_ratio)
    terms = reward.terms(evaluation, ORIGINAL)
    assert math.isfinite(reward(evaluation, ORIGINAL))
    assert reward(evaluation, ORIGINAL) == pytest.approx(sum(terms.values()))
    assert set(terms) == set(reward.terms(ORIGINAL, ORIGINAL))


@given(edits=st.integers(0, 2000), more=st.integers(0, 1000), size_ratio=st.floats(0.01, 0.9), larger=st.floats(0, 0.1))
def test_never_better_for_more_errors_or_a_larger_model(edits, more, size_ratio, larger):
    for reward in (Linear(), Threshold()):
        good = reward(measured(edits, size_ratio), ORIGINAL)
        assert reward(measured(edits + more, size_ratio), ORIGINAL) <= good
        assert reward(measured(edits, size_ratio + larger), ORIGINAL) <= good


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_bad_options(value):
    with pytest.raises(ValueError, match="'linear': size_weight"):
        Linear(size_weight=value)
    with pytest.raises(ValueError, match="'threshold': tolerance"):
        Threshold(tolerance=value)
    with pytest.raises(ValueError, match="'threshold': punishment"):
        Threshold(punishment=value)
