import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.actions import ACTIONS, Continuous, Discrete
from shrinkml_env.registration import make_problem
from tests.fake_evaluator import FakeEvaluator

PROBLEM = make_problem(FakeEvaluator())
CONTINUOUS = Continuous().bind(PROBLEM)
DISCRETE = Discrete().bind(PROBLEM)
LAST = tuple(ranks[-1] for ranks in PROBLEM.candidates[:-1])  # all but "output" are decided


def test_spaces():
    assert CONTINUOUS.space == spaces.Box(-1, 1, (1,), np.float32)
    assert DISCRETE.space == spaces.Discrete(25)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_continuous_is_linear_between_the_smallest_candidate_and_dense(dtype):
    # "output" is 100 x 64: candidates round(39 i / 24) = 2, 3, 5, ..., 37, 39 and 64; the line is 33 + 31 a.
    for value, rank in [(-1, 2), (1, 64), (0, 33), (-0.5, 18), (6 / 31, 39), (18 / 31, 39), (19 / 31, 64)]:
        ranks, projected = CONTINUOUS.decode(LAST, np.array([value], dtype))
        assert (ranks, projected) == ((*LAST, rank), False), value


def test_discrete_counts_from_the_smallest_rank():
    for index, rank in enumerate(PROBLEM.candidates[-1]):
        assert DISCRETE.decode(LAST, index) == ((*LAST, rank), False)
        assert DISCRETE.decode(LAST, np.int64(index)) == ((*LAST, rank), False)
        assert DISCRETE.decode(LAST, np.array(index)) == ((*LAST, rank), False)


def test_an_index_that_the_layer_lacks_is_masked_and_projected():
    before = LAST[:3]  # "bridge" comes next, with ranks 1..5 and 9
    assert DISCRETE.masks(before).tolist() == [True] * 6 + [False] * 19
    for index in range(25):
        ranks, projected = DISCRETE.decode(before, index)
        assert ranks == (*before, (1, 2, 3, 4, 5, 9)[min(index, 5)])
        assert projected == (not DISCRETE.masks(before)[index])
    assert DISCRETE.masks((*LAST, 64)).all()


@pytest.mark.parametrize(
    "action",
    [
        np.array([np.nan]),
        np.array([np.inf]),
        np.array([1.0001]),
        np.array([-2.0]),
        np.array(0.5),
        np.array([0.5, 0.5]),
        np.array([[0.5]]),
        np.array([], np.float32),
        np.array([0]),
        np.array([True]),
        np.array(["0"]),
        0.5,
        0,
        None,
        "0",
        {},
    ],
)
def test_bad_continuous_actions_name_the_layer(action):
    with pytest.raises(ValueError, match="layer 'output': the action must be an array of one float"):
        CONTINUOUS.decode(LAST, action)


@pytest.mark.parametrize("action", [-1, 25, 10**30, 1.0, np.nan, True, np.array([1]), "1", None, [], {}])
def test_bad_discrete_actions_name_the_layer(action):
    with pytest.raises(ValueError, match=r"layer 'output': the action must be an integer in 0\.\.24"):
        DISCRETE.decode(LAST, action)


@pytest.mark.parametrize("name", ACTIONS)
@given(data=st.data())
def test_encode_is_the_inverse_of_decode(name, data):
    kind = ACTIONS[name]().bind(PROBLEM)
    ranks = tuple(data.draw(st.sampled_from(candidates)) for candidates in PROBLEM.candidates)
    decided: tuple[int, ...] = ()
    for action in kind.encode(ranks):
        assert kind.space.contains(action)
        decided, projected = kind.decode(decided, action)
        assert not projected
    assert decided == ranks


def test_one_object_serves_several_problems():
    kind = Discrete()
    small = kind.bind(make_problem(FakeEvaluator(), search_space={"name": "full", "count": 4}))
    large = kind.bind(PROBLEM)
    assert (small.space, large.space) == (spaces.Discrete(5), spaces.Discrete(25))
