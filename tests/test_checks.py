"""Values of a wrong type are told at the door: the name, what it must be, and what was given."""

import math
import re
from fractions import Fraction

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shrinkml_env
from shrinkml_env.checks import is_number, number, whole_number
from tests.helpers.models import TinyCTC, tones

MODEL = TinyCTC()
PROXY = [shrinkml_env.Utterance("a", "speaker", tones(1)[0], "one word")]

WRONG = {
    "ledger: budget": [{"ledger": {"budget": value}} for value in (1.5, float("nan"), True, "abc", -1, [3])],
    "ledger must be": [{"ledger": value} for value in ("x", 5, 1.5, [])],
    "ledger: path must be": [{"ledger": {"path": value}} for value in (5, ["a"])],
    "ledger has no option 'bugdet'; its options are path, budget": [{"ledger": {"bugdet": 5}}],
    "workers must be": [{"workers": value} for value in ("abc", 1.5, None, True, 0)],
    "memory_mb must be": [{"memory_mb": value} for value in (None, "a", -1, 1.5)],
    "cache must be": [{"cache": value} for value in (5, 1.5, {})],
    "device must be": [{"device": value} for value in (5, "abc", None)],
    "granularity must be": [{"granularity": value} for value in (5, "layers", None)],
    "size_weight must be": [
        {"reward": {"name": "linear", "size_weight": value}} for value in ("x", None, True, float("nan"), -1)
    ],
    "weight must be": [{"shaping": {"name": "activation_error", "weight": value}} for value in ("a", None, 0, True)],
    "a candidate must be": [
        {"search_space": {"name": "explicit", "candidates": {"hidden": [value]}}} for value in ("a", None, 1.5, 0, True)
    ],
    "the budget must be": [{"constraint": {"name": "clip", "budget": value}} for value in ("x", None, 0, float("nan"))],
}


@pytest.mark.parametrize(
    ("message", "arguments"), [(message, arguments) for message, cases in WRONG.items() for arguments in cases], ids=str
)
def test_a_wrong_argument_of_an_environment(message, arguments):
    with pytest.raises(ValueError, match=message):
        gym.make("ShrinkML-v0", **{"model": MODEL, "proxy": PROXY, "cache": None, **arguments})


@pytest.mark.parametrize("num_envs", [1.5, "a", None, 0, True])
def test_a_wrong_number_of_environments(num_envs):
    with pytest.raises(ValueError, match="num_envs must be a whole number of at least 1"):
        gym.make_vec("ShrinkML-v0", num_envs=num_envs, model=MODEL, proxy=PROXY, cache=None)


@pytest.mark.parametrize("table", [5, {}, None])
def test_a_wrong_table(table):
    with pytest.raises(ValueError, match="table must be the name or the file of a table, or a Table"):
        gym.make("ShrinkMLTabular-v0", table=table)


@pytest.mark.parametrize("value", [None, "x", True, [0.5], 1j])
def test_a_reward_that_gives_no_number(value):
    env = gym.make("ShrinkML-v0", model=MODEL, proxy=PROXY, cache=None, reward=lambda evaluation, baseline: value)
    problem = env.unwrapped.problem
    with pytest.raises(ValueError, match="must give a number, it gave"):
        problem.reward(problem.baseline)


@given(st.integers(-5, 5), st.integers(-5, 5))
def test_whole_numbers(value, least):
    for kind in (int, np.int64, np.int8):
        if value >= least:
            assert whole_number("name", kind(value), least) == value
            assert type(whole_number("name", kind(value), least)) is int
        else:
            with pytest.raises(ValueError, match=f"name must be a whole number of at least {least}, got"):
                whole_number("name", kind(value), least)


def test_numbers():
    assert all(is_number(value) for value in (1, 1.5, np.float32(1), np.int64(1), float("nan")))
    assert not any(is_number(value) for value in (True, None, "1", 1j, [1]))


LIMITS = st.sampled_from([-1.5, -1, 0, 1e-9, 0.1, 1, 2])
NUMBERS = st.one_of(LIMITS, st.integers(), st.floats())


@given(NUMBERS, LIMITS, LIMITS, st.booleans(), st.booleans())
def test_a_range_takes_exactly_its_numbers(value, start, end, with_start, with_end):
    options = {"at_least" if with_start else "above": start, "at_most" if with_end else "below": end}
    inside = False
    if math.isfinite(value):
        # Fractions are not rounded.
        from_start, to_end = Fraction(value) - Fraction(start), Fraction(end) - Fraction(value)
        inside = min(from_start, to_end) >= 0 and (with_start or from_start != 0) and (with_end or to_end != 0)
    if inside:
        assert number("name", value, **options) == value
        assert type(number("name", value, **options)) is float
    else:
        with pytest.raises(ValueError, match=r"^name must be .* and .*, got "):
            number("name", value, **options)


@given(st.floats(width=16), LIMITS)
def test_numpy_numbers_are_taken_as_floats_are(value, limit):
    for kind in (np.float16, np.float32, np.float64):
        if limit <= value < math.inf:
            assert number("name", kind(value), at_least=limit) == value
            assert type(number("name", kind(value), at_least=limit)) is float
        else:
            with pytest.raises(ValueError, match=r"^name must be at least .*, got "):
                number("name", kind(value), at_least=limit)


@given(st.one_of(st.integers(-128, 127), st.floats(allow_nan=False, allow_infinity=False)))
def test_without_a_range_every_finite_number_is_taken(value):
    assert number("name", value) == value
    if isinstance(value, int):
        assert number("name", np.int8(value)) == value


@pytest.mark.parametrize(
    "value",
    [True, False, np.True_, None, "1", 1j, [1], np.ones(1), math.nan, math.inf, -math.inf, np.float32("nan"), 10**400],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_finite_number(value):
    for options in ({}, {"at_least": 0}, {"above": 0, "at_most": 1}, {"below": 0}):
        with pytest.raises(ValueError, match=r"^name must be"):
            number("name", value, **options)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, "a number"),
        ({"at_least": 3}, "at least 3"),
        ({"at_least": 1e-9}, "at least 1e-09"),
        ({"above": 2}, "above 2"),
        ({"below": 0.5}, "below 0.5"),
        ({"at_most": -1}, "at most -1"),
        ({"above": 2, "at_most": 3}, "above 2 and at most 3"),
        ({"at_least": 2, "below": 3}, "at least 2 and below 3"),
        ({"above": 2, "at_most": 3, "meaning": "a share"}, "a share in (2, 3]"),
        ({"at_least": 2, "below": 3, "meaning": "a share"}, "a share in [2, 3)"),
        ({"at_least": 2, "meaning": "a price"}, "a price in [2, inf)"),
        ({"below": 0, "meaning": "a loss"}, "a loss in (-inf, 0)"),
    ],
    ids=str,
)
def test_a_range_is_told(options, wanted):
    with pytest.raises(ValueError, match=rf"^name must be {re.escape(wanted)}, got 'one'$"):
        number("name", "one", **options)
