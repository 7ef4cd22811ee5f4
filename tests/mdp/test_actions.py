import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from shrinkml_env.envs.assembly import make_problem
from shrinkml_env.mdp.actions import (
    ACTIONS,
    Continuous,
    Delta,
    Discrete,
    Energy,
    IndependentActions,
    Level,
    MaskedActions,
    OneShot,
)
from tests.helpers.fake_evaluator import FakeEvaluator
from tests.helpers.levels import levelled

PROBLEM = make_problem(FakeEvaluator(), search_space=levelled)
CONTINUOUS = Continuous(PROBLEM)
DISCRETE = Discrete(PROBLEM)
ENERGY = Energy(PROBLEM)
DELTA = Delta(PROBLEM)
LEVEL = Level(PROBLEM, span=0.25)
ONE_SHOT = OneShot(PROBLEM)
LAST = tuple(ranks[-1] for ranks in PROBLEM.candidates[:-1])  # all but "output" are decided


def test_spaces():
    assert CONTINUOUS.space == spaces.Box(-1, 1, (1,), np.float32)
    assert ENERGY.space == DELTA.space == CONTINUOUS.space
    assert DISCRETE.space == spaces.Discrete(25)
    assert ONE_SHOT.space == spaces.MultiDiscrete([15, 25, 25, 6, 25])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_continuous_is_linear_between_the_smallest_candidate_and_dense(dtype):
    # "output" is 100 x 64: candidates round(39 i / 24) = 2, 3, 5, ..., 37, 39 and 64; the line is 33 + 31 a.
    for value, rank in [(-1, 2), (1, 64), (0, 33), (-0.5, 18), (6 / 31, 39), (18 / 31, 39), (19 / 31, 64)]:
        assert CONTINUOUS.decode(LAST, np.array([value], dtype)) == ((rank,), False), value


def test_energy_takes_the_smallest_candidate_that_keeps_as_much():
    # The squared singular values of "output" fall by exp(-1/4): rank r keeps 1 - exp(-r / 4), nearly.
    candidates = PROBLEM.candidates[-1]
    for kept in (0.2, 0.5, 0.9, 0.99, 0.999):
        smallest = next(rank for rank in candidates if (1 - np.exp(-rank / 4)) / (1 - np.exp(-64 / 4)) >= kept)
        assert ENERGY.decode(LAST, np.array([2 * kept - 1])) == ((smallest,), False), kept
    assert ENERGY.decode(LAST, np.array([-1.0])).ranks == (2,)
    assert ENERGY.decode(LAST, np.array([1.0])).ranks == (64,)


def test_energy_of_a_layer_is_the_mean_over_its_matrices():
    # "encoder.0": 256 x 32 breaks even at 28, 256 x 64 at 51: above 28 the first is dense and keeps 1.
    at_30 = (1 + (1 - np.exp(-30 / 4)) / (1 - np.exp(-64 / 4))) / 2
    candidates = PROBLEM.candidates[1]
    assert 30 in candidates
    before = LAST[:1]
    assert ENERGY.decode(before, np.array([2 * (at_30 - 1e-5) - 1])).ranks == (30,)
    assert ENERGY.decode(before, np.array([2 * (at_30 + 1e-5) - 1])).ranks == (candidates[candidates.index(30) + 1],)


def test_equal_energies_cannot_be_told_apart():
    evaluator = FakeEvaluator()
    evaluator.singular_values = {name: torch.ones(64) * (torch.arange(64) < 3) for name in evaluator.singular_values}
    kind = Energy(make_problem(evaluator))
    with pytest.raises(ValueError, match="layer 'output': no energy threshold leads to rank 5"):
        kind.encode((*LAST, 5))


def test_delta_starts_from_dense_and_goes_on_from_the_previous_layer():
    assert DELTA.decode((), np.array([0.0])).ranks == (27,)  # "frontend" stays dense
    # The candidates of "frontend" go from 1 to 27, those of "encoder.0" from 2 to 64: 14 is halfway, as is 33 there.
    assert DELTA.decode((14,), np.array([0.0])).ranks == (min(PROBLEM.candidates[1], key=lambda rank: abs(rank - 33)),)
    assert DELTA.decode((14,), np.array([0.5])).ranks == (64,)
    assert DELTA.decode((14,), np.array([0.9])).ranks == (64,)
    assert DELTA.decode((14,), np.array([-0.6])).ranks == (2,)


def test_level_moves_away_from_the_common_level():
    # 24 levels below dense: every one is a candidate of "output"; without a budget the common one is the middle.
    assert (LEVEL.common, PROBLEM.search_space.top_level) == (12, 24)
    candidates = PROBLEM.candidates[-1]
    for value, level in [(0, 12), (1, 18), (-1, 6), (0.5, 15), (0.08, 12), (0.09, 13), (-0.09, 11)]:
        assert LEVEL.decode(LAST, np.array([value], np.float32)) == ((candidates[level],), False), value
    wide = Level(PROBLEM, span=1.0)
    assert [wide.decode(LAST, np.array([value])).ranks for value in (-1.0, 1.0)] == [(candidates[0],), (64,)]
    assert [Level(PROBLEM).decode(LAST, np.array([value])).ranks for value in (-1.0, 1.0)] == [
        (candidates[10],),
        (candidates[14],),
    ]
    # "bridge" has 6 candidates on 25 levels: level 12 is its third.
    assert LEVEL.decode(LAST[:3], np.array([0.0])).ranks == (3,)


def test_of_few_levels_the_span_is_one():
    few = Level(make_problem(FakeEvaluator(), search_space=lambda evaluator: levelled(evaluator, 4)), span=0.1)
    candidates = few.problem.candidates[-1]
    assert (few.common, len(candidates)) == (2, 5)
    assert [few.decode(LAST, np.array([value])).ranks for value in (-1.0, 0.0, 1.0)] == [
        (candidates[level],) for level in (1, 2, 3)
    ]


@given(st.floats(0.1, 1.0))
def test_the_common_level_is_the_largest_within_the_budget(budget):
    problem = make_problem(
        FakeEvaluator(), search_space=levelled, constraint={"name": "shift", "budget": max(budget, 0.2)}
    )
    space, common = problem.search_space, Level(problem).common
    if budget == 1.0:
        assert common == space.top_level // 2
    else:
        assert problem.size(space.at_level(common)) <= max(budget, 0.2)
        assert common == space.top_level or problem.size(space.at_level(common + 1)) > max(budget, 0.2)


@pytest.mark.parametrize("name", ACTIONS)
def test_steps_of_an_episode(name):
    assert ACTIONS[name](PROBLEM).steps == (1 if name == "one_shot" else 5)


def test_what_a_level_cannot_say():
    with pytest.raises(ValueError, match="layer 'output': no action leads to rank 64: it lies more than 6 levels from"):
        LEVEL.encode((*tuple(PROBLEM.search_space.at_level(12).values())[:-1], 64))
    for span in (0, 1.1, -0.5, float("nan"), True, "1"):
        with pytest.raises(ValueError, match="action 'level': span must be a share of all levels"):
            Level(PROBLEM, span=span)
    with pytest.raises(ValueError, match="the search space has no levels: take search_space='predicted'"):
        Level(make_problem(FakeEvaluator()))


def test_one_shot_decides_everything():
    indices = np.array([0, 24, 3, 5, 1])
    expected = tuple(ranks[index] for ranks, index in zip(PROBLEM.candidates, indices, strict=True))
    assert ONE_SHOT.decode((), indices) == (expected, False)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.array([15, 0, 0, 0, 0]), r"layer 'frontend': the action must be an integer in 0\.\.14, got 15"),
        (np.array([0, 0, 0, 0, -1]), r"layer 'output': the action must be an integer in 0\.\.24, got -1"),
        (np.zeros(4, int), "layers 'frontend' to 'output': the action must be 5 integers"),
        (np.zeros(5), "must be 5 integers"),
        (0, "must be 5 integers"),
        (None, "must be 5 integers"),
    ],
)
def test_bad_one_shot_actions(action, message):
    with pytest.raises(ValueError, match=message):
        ONE_SHOT.decode((), action)


def test_discrete_counts_from_the_smallest_rank():
    for index, rank in enumerate(PROBLEM.candidates[-1]):
        for action in (index, np.int64(index), np.array(index)):
            assert DISCRETE.decode(LAST, action) == ((rank,), False)


def test_an_index_that_the_layer_lacks_is_masked_and_projected():
    before = LAST[:3]  # "bridge" comes next, with ranks 1..5 and 9
    assert DISCRETE.masks(before).tolist() == [True] * 6 + [False] * 19
    for index in range(25):
        ranks, projected = DISCRETE.decode(before, index)
        assert ranks == ((1, 2, 3, 4, 5, 9)[min(index, 5)],)
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
@pytest.mark.parametrize("kind", [CONTINUOUS, ENERGY, DELTA, LEVEL])
def test_bad_numbers_name_the_layer(kind, action):
    with pytest.raises(ValueError, match="layer 'output': the action must be an array of one float"):
        kind.decode(LAST, action)


@pytest.mark.parametrize("action", [-1, 25, 10**30, 1.0, np.nan, True, np.array([1]), "1", None, [], {}])
def test_bad_discrete_actions_name_the_layer(action):
    with pytest.raises(ValueError, match=r"layer 'output': the action must be an integer in 0\.\.24"):
        DISCRETE.decode(LAST, action)


@pytest.mark.parametrize("name", ACTIONS)
@given(data=st.data())
def test_encode_is_the_inverse_of_decode(name, data):
    # All levels within reach, so that every candidate is.
    kind = ACTIONS[name](PROBLEM, **({"span": 1.0} if name == "level" else {}))
    ranks = tuple(data.draw(st.sampled_from(candidates)) for candidates in PROBLEM.candidates)
    decided: tuple[int, ...] = ()
    for action in kind.encode(ranks):
        assert kind.space.contains(action)
        asked, projected = kind.decode(decided, action)
        decided += asked
        assert not projected
    assert decided == ranks


def test_each_problem_has_its_own_space():
    small = Discrete(make_problem(FakeEvaluator(), search_space={"name": "full", "count": 4}))
    assert (small.space, DISCRETE.space) == (spaces.Discrete(5), spaces.Discrete(25))


def test_kinds_with_masks():
    assert [name for name, kind in ACTIONS.items() if issubclass(kind, MaskedActions)] == ["discrete"]


@pytest.mark.parametrize("kind", [CONTINUOUS, ENERGY, DELTA, LEVEL])
def test_what_float32_puts_outside_the_box_is_at_its_edge(kind):
    """As ``gymnasium.wrappers.RescaleAction`` makes it of the box's own bounds."""
    edge = np.nextafter(np.float32(1), np.float32(2))
    for sign in (-1, 1):
        outside, inside = (np.array([sign * value], np.float32) for value in (edge, 1))
        assert kind.decode((), outside) == kind.decode((), inside)
        with pytest.raises(ValueError, match="must be an array of one float"):
            kind.decode((), np.array([sign * 1.00001]))


def test_kinds_that_depend_on_the_layer_alone():
    independent = [name for name, kind in ACTIONS.items() if issubclass(kind, IndependentActions)]
    assert independent == ["continuous", "discrete", "energy", "level"]


@pytest.mark.parametrize("kind", [CONTINUOUS, DISCRETE, ENERGY, LEVEL])
@given(st.data())
def test_places_depend_on_the_layer_alone(kind, data):
    index = data.draw(st.integers(0, len(PROBLEM.layers) - 1))
    value = st.integers(0, kind.space.n - 1) if kind is DISCRETE else st.floats(-1.0, 1.0)
    actions = np.array(data.draw(st.lists(value, min_size=1, max_size=20)))
    actions = actions if kind is DISCRETE else actions[:, None]
    before = tuple(data.draw(st.sampled_from(ranks)) for ranks in PROBLEM.candidates[:index])
    wanted = [kind.decode(before, single) for single in actions]
    single = [kind.place(index, action) for action in actions]
    assert [((PROBLEM.candidates[index][place],), projected) for place, projected in single] == wanted
    assert kind.places(index, actions).tolist() == [place for place, _ in single]


@given(st.floats(-1.0, 1.0))
def test_continuous_takes_the_nearest_candidate_to_the_point_on_the_line(value):
    for index, ranks in enumerate(PROBLEM.candidates):
        wanted = ranks[0] + (value + 1) / 2 * (ranks[-1] - ranks[0])
        nearest = min(ranks, key=lambda rank: (abs(rank - wanted), rank))
        assert Continuous(PROBLEM).decode(PROBLEM.candidates[0][:1] * index, np.array([value])).ranks == (nearest,)


@pytest.mark.parametrize(
    ("kind", "actions"),
    [
        (Continuous, [[0.0], [np.nan]]),
        (Continuous, [[0.0], [1.01]]),
        (Continuous, [0.0]),
        (Continuous, [[0.0, 0.5]]),
        (Continuous, [[0]]),
        (Discrete, [0, -1]),
        (Discrete, [0, 25]),
        (Discrete, [[0]]),
        (Discrete, [0.0]),
        (Energy, [[0.0], [np.inf]]),
    ],
)
def test_many_bad_actions_name_the_layer(kind, actions):
    with pytest.raises(ValueError, match=r"layer 'frontend': an action is outside .*, or no "):
        kind(PROBLEM).places(0, np.array(actions))
