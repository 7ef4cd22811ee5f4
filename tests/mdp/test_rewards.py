import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.evaluation.result import Evaluation
from shrinkml_env.mdp.rewards import (
    AMC,
    REWARDS,
    Absolute,
    Accuracy,
    Divergence,
    Harmonic,
    Linear,
    Multiplicative,
    SoftThreshold,
    Threshold,
    Vector,
    signal_of,
)


def measured(edits: int, size_ratio: float, words: int = 1000, divergence: float | None = None) -> Evaluation:
    params, macs = round(2_000_000 * size_ratio), round(50_000_000 * size_ratio)
    return Evaluation({"layer": 1}, (edits,), (words,), max(1, params), size_ratio, max(1, macs), 0, divergence)


ORIGINAL = measured(30, 1.0, divergence=0.0)  # e0 = 0.03


def test_linear_by_hand():
    # -(0.045 - 0.03) - 0.2 * 0.4 = -0.015 - 0.08
    assert Linear(size_weight=0.2)(measured(45, 0.4), ORIGINAL) == pytest.approx(-0.095)
    # The original itself: -lambda.
    assert Linear()(ORIGINAL, ORIGINAL) == pytest.approx(-0.2)


def test_threshold_by_hand():
    reward = Threshold(tolerance=0.01, punishment=2)
    assert reward(measured(39, 0.25), ORIGINAL) == 0.75
    assert reward(measured(40, 0.25), ORIGINAL) == 0.75  # just at e0 + eps
    assert reward(measured(41, 0.25), ORIGINAL) == -2.0
    assert reward(measured(0, 0.25), ORIGINAL) == 0.75


def test_soft_threshold_by_hand():
    reward = SoftThreshold(tolerance=0.01, kappa=4)
    assert reward(measured(40, 0.25), ORIGINAL) == 0.75
    # One point above the tolerance: 0.75 - 4 * 0.01.
    assert reward(measured(50, 0.25), ORIGINAL) == pytest.approx(0.71)


def test_accuracy_by_hand():
    assert Accuracy()(measured(45, 0.1), ORIGINAL) == pytest.approx(-0.015)
    assert Accuracy()(measured(20, 0.9), ORIGINAL) == pytest.approx(0.01)


def test_divergence_by_hand():
    # -0.05 - 0.3 * 0.4, whatever the words
    for edits in (0, 900):
        assert Divergence(size_weight=0.3)(measured(edits, 0.4, divergence=0.05), ORIGINAL) == pytest.approx(-0.17)
    assert Divergence()(measured(30, 0.4, divergence=0.05), ORIGINAL) == pytest.approx(-0.05)
    with pytest.raises(ValueError, match="not been measured"):
        Divergence()(measured(30, 0.4), ORIGINAL)


def test_what_rewards_depend_on():
    assert {name for name in REWARDS if signal_of(REWARDS[name]()) == "divergence"} == {"divergence"}
    assert signal_of(lambda evaluation, baseline: 1.0) == "wer"


def test_the_signal_of_a_partial_is_that_of_its_function():
    """As Hydra's ``_partial_`` makes it."""

    def far(evaluation, baseline, weight=1.0):
        return -weight * evaluation.divergence

    far.signal = "divergence"
    assert signal_of(partial(far, weight=2.0)) == "divergence"
    assert signal_of(partial(partial(far), weight=2.0)) == "divergence"
    assert signal_of(partial(Divergence, size_weight=0.1)) == "divergence"


def test_amc_by_hand():
    # log(1,000,000) = 6 * 2.302585 = 13.815511 and log(25,000,000) = 17.034386
    assert AMC()(measured(40, 0.5), ORIGINAL) == pytest.approx(-0.04 * 13.815511)
    assert AMC(cost="macs")(measured(40, 0.5), ORIGINAL) == pytest.approx(-0.04 * 17.034386)
    # A flawless model counts as one error in a thousand words; more than 1 as 1.
    assert AMC()(measured(0, 0.5), ORIGINAL) == pytest.approx(-0.001 * 13.815511)
    assert AMC()(measured(1500, 0.5), ORIGINAL) == pytest.approx(-13.815511)


def test_multiplicative_by_hand():
    # (0.2 / 0.4) ^ -2 = 4
    assert Multiplicative(target=0.4, exponent=-2)(measured(100, 0.2), ORIGINAL) == pytest.approx(0.9 * 4)
    assert Multiplicative(target=0.4)(measured(40, 0.4), ORIGINAL) == pytest.approx(0.96)
    assert Multiplicative()(measured(2000, 0.2), ORIGINAL) == 0.0


def test_absolute_by_hand():
    # |0.2 / 0.4 - 1| = |0.6 / 0.4 - 1| = 0.5
    for size_ratio in (0.2, 0.6):
        assert Absolute(target=0.4, beta=-0.1)(measured(100, size_ratio), ORIGINAL) == pytest.approx(0.85)
    assert Absolute(target=0.4)(measured(3000, 0.4), ORIGINAL) == 0.0


def test_harmonic_by_hand():
    # beta = 1: 2 * 0.9 * 0.6 / 1.5 = 0.72; beta = 2: 5 * 0.54 / (3.6 + 0.6) = 0.642857
    assert Harmonic(beta=1)(measured(100, 0.4), ORIGINAL) == pytest.approx(0.72)
    assert Harmonic(beta=2)(measured(100, 0.4), ORIGINAL) == pytest.approx(0.642857, abs=1e-6)
    assert Harmonic()(measured(1000, 1.0), ORIGINAL) == 0.0


def test_vector_by_hand():
    value = Vector()(measured(45, 0.4), ORIGINAL)
    assert value.dtype == np.float32
    assert value.tolist() == pytest.approx([-0.015, 0.6])
    assert Vector().terms(measured(45, 0.4), ORIGINAL) == pytest.approx({"wer": -0.015, "size": 0.6})


@given(edits=st.integers(0, 100_000), tolerated=st.integers(0, 1000))
def test_threshold_is_exact_at_its_edge(edits, tolerated):
    allowed = Threshold(tolerance=tolerated / 1000)(measured(edits, 0.5), ORIGINAL) > 0
    assert allowed == (edits <= 30 + tolerated)


ALL = pytest.mark.parametrize("reward", [REWARDS[name]() for name in REWARDS], ids=list(REWARDS))


@ALL
@given(edits=st.integers(0, 10_000_000), size_ratio=st.floats(1e-6, 1), divergence=st.floats(0, 1e3))
def test_every_reward_is_finite_and_its_terms_have_names(reward, edits, size_ratio, divergence):
    evaluation = measured(edits, size_ratio, divergence=divergence)
    terms = reward.terms(evaluation, ORIGINAL)
    assert np.isfinite(reward(evaluation, ORIGINAL)).all()
    assert all(math.isfinite(term) for term in terms.values())
    assert set(terms) == set(reward.terms(ORIGINAL, ORIGINAL))
    if isinstance(reward, Vector):
        assert reward.space.contains(reward(evaluation, ORIGINAL))


@pytest.mark.parametrize("reward", [Linear(), Threshold(), SoftThreshold(), Accuracy(), Absolute()])
@given(edits=st.integers(0, 2000), size_ratio=st.floats(0.01, 1))
def test_the_terms_of_a_sum_add_up(reward, edits, size_ratio):
    evaluation = measured(edits, size_ratio)
    assert reward(evaluation, ORIGINAL) == pytest.approx(sum(reward.terms(evaluation, ORIGINAL).values()))


@given(edits=st.integers(0, 2000), more=st.integers(0, 1000), size_ratio=st.floats(0.01, 0.9), larger=st.floats(0, 0.1))
def test_never_better_for_more_errors_or_a_larger_model(edits, more, size_ratio, larger):
    for reward in (Linear(), Threshold(), SoftThreshold(), Accuracy(), AMC(), Multiplicative(), Harmonic()):
        good = reward(measured(edits, size_ratio), ORIGINAL)
        assert reward(measured(edits + more, size_ratio), ORIGINAL) <= good
        assert reward(measured(edits, size_ratio + larger), ORIGINAL) <= good + 1e-12


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_bad_options(value):
    with pytest.raises(ValueError, match="'linear': size_weight"):
        Linear(size_weight=value)
    with pytest.raises(ValueError, match="'divergence': size_weight"):
        Divergence(size_weight=value)
    with pytest.raises(ValueError, match="'threshold': tolerance"):
        Threshold(tolerance=value)
    with pytest.raises(ValueError, match="'threshold': punishment"):
        Threshold(punishment=value)
    with pytest.raises(ValueError, match="'soft_threshold': tolerance must be at least 0"):
        SoftThreshold(tolerance=value)
    with pytest.raises(ValueError, match="'soft_threshold': kappa"):
        SoftThreshold(kappa=value)
    with pytest.raises(ValueError, match="'multiplicative': target must be above 0 and at most 1"):
        Multiplicative(target=value)
    with pytest.raises(ValueError, match="'absolute': target"):
        Absolute(target=value)
    with pytest.raises(ValueError, match="'multiplicative': exponent must be below 0"):
        Multiplicative(exponent=-value)
    with pytest.raises(ValueError, match="'absolute': beta must be below 0"):
        Absolute(beta=-value)
    with pytest.raises(ValueError, match="'harmonic': beta must be above 0"):
        Harmonic(beta=value)
    with pytest.raises(ValueError, match="'amc': cost must be 'params' or 'macs'"):
        AMC(cost="bytes")
