import pytest
import torch

from experiments.common.agent import make_agent
from experiments.common.learning import FROZEN, LEARNING, learning_cells
from experiments.common.searches import Search, search_env
from shrinkml_env.search import explore


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "a2c", "sac", "td3", "dqn"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_agent_does_not_learn(fake_table, agent, frozen):
    search = Search("tabular", agent, "linear", 0, 24, (FROZEN,) if frozen else ())
    env = search_env(search)
    learner = make_agent(search.config.agent, env)
    network = getattr(learner, "actor", None) or getattr(learner, "q_net", None) or learner.policy
    before = [weight.clone() for weight in network.parameters()]
    explore(env, learner)
    assert all(map(torch.equal, before, network.parameters())) == frozen


def test_a_run_without_enough_episodes_says_nothing():
    assert learning_cells([[0.1] * 19], [[0.0] * 50]) == ("",) * len(LEARNING)
    assert learning_cells([[0.1] * 50, []], [[0.0] * 50]) == ("",) * len(LEARNING)


def test_a_run_that_ends_above_the_agent_that_does_not_learn():
    still = [[0.0, 0.1] * 20]
    rising = [step / 20 for step in range(40)]
    # The last four of 40: 1.8 to 1.95; the first four: 0 to 0.15.
    cells = learning_cells([rising, [0.0, 0.1] * 20], still)
    assert cells[0] == "40"
    assert cells[1] == f"{(0.075 + 0.05) / 2:.4f}"
    assert cells[2].startswith(f"{(1.875 + 0.05) / 2:.4f}")
    assert cells[3:] == ("0.0500", "1 of 2")


def test_a_policy_that_is_sure_of_itself_can_end_above_too():
    rising, flat, still = [0.0] * 20 + [0.5] * 20, [0.2] * 40, [0.0, 0.3] * 20
    assert learning_cells([rising, flat], [still])[-1] == "2 of 2"
    assert learning_cells([flat], [flat])[-1] == "0 of 1"
