"""Values of a wrong type are told at the door: the name, what it must be, and what was given."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shrinkml_env
from shrinkml_env.checks import is_number, whole_number
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
