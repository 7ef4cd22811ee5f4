import itertools

import numpy as np
import pytest

from shrinkml_env.mdp.shaping import POTENTIALS, ActivationErrorPotential
from tests.helpers.fake_evaluator import FakeEvaluator, linear, make_fake_env

LAYERS = (linear("first", 40, 30), linear("second", 50, 40), linear("third", 60, 50))
SHAPED = {"name": "activation_error", "weight": 0.3}


def make(shaping):
    return make_fake_env(
        "discrete", shaping=shaping, evaluator=FakeEvaluator(LAYERS), search_space={"name": "full", "count": 3}
    )


def rewards(env, actions):
    env.reset()
    return [env.step(action)[1] for action in actions]


def test_rewards_on_the_way_by_hand():
    env = make(SHAPED)
    plain = rewards(make("none"), (0, 1, 3))
    shaped = rewards(env, (0, 1, 3))
    # The fake error: a quarter of all cuts, and the last one.
    ranks = [candidates[index] for candidates, index in zip(env.problem.candidates, (0, 1, 3), strict=True)]
    cuts = [1 - rank / layer.max_rank for rank, layer in zip(ranks, LAYERS, strict=True)]
    first = -0.3 * min(1, 5 / 4 * cuts[0])
    second = -0.3 * min(1, (cuts[0] + cuts[1]) / 4 + cuts[1])
    assert shaped == pytest.approx([first, second - first, plain[-1] - second])


@pytest.mark.parametrize("weight", [0.01, 0.3, 100.0])
def test_the_best_policy_stays_the_best(weight):
    """All 64 episodes: every return is what it was, so every policy's value is, and so is the best one."""
    plain, shaped = make("none"), make({"name": "activation_error", "weight": weight})
    returns, on_the_way = [], []
    for actions in itertools.product(range(4), repeat=3):
        expected, found = rewards(plain, actions), rewards(shaped, actions)
        assert sum(found) == pytest.approx(sum(expected), abs=1e-9)
        returns.append(sum(expected))
        on_the_way.append(found[:2])
    assert len(set(returns)) > 10
    assert np.ptp(on_the_way) > 0


def test_the_optimal_first_action_by_dynamic_programming():
    """The state-action values move by the potential alone, so that the greedy action is the same in every state."""
    plain, shaped = make("none"), make(SHAPED)
    for prefix in [(), *itertools.product(range(4), repeat=1), *itertools.product(range(4), repeat=2)]:
        values = []
        for env in (plain, shaped):
            values.append(
                [
                    max(
                        sum(rewards(env, (*prefix, action, *rest))[len(prefix) :])
                        for rest in itertools.product(range(4), repeat=2 - len(prefix))
                    )
                    for action in range(4)
                ]
            )
        difference = np.subtract(*values)
        assert difference == pytest.approx(np.full(4, difference[0]))


def test_no_potential_gives_nothing():
    assert POTENTIALS["none"](make("none").problem)((3,)) == 0.0


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_bad_weight(weight):
    with pytest.raises(ValueError, match="'activation_error': weight must be above 0"):
        ActivationErrorPotential(make("none").problem, weight)
