import pytest
import torch

from experiments.common.agent import make_agent
from experiments.common.learning import FROZEN, LEARNING, Returns, draw_learning, learning_cells
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
    assert learning_cells(Returns([[0.1] * 19], [[0.0] * 50])) == ("",) * len(LEARNING)
    assert learning_cells(Returns([[0.1] * 50, []], [[0.0] * 50])) == ("",) * len(LEARNING)


def test_a_run_that_ends_above_the_agent_that_does_not_learn():
    still = [[0.0, 0.1] * 20]
    rising = [step / 20 for step in range(40)]
    # The last four of 40: 1.8 to 1.95; the first four: 0 to 0.15.
    cells = learning_cells(Returns([rising, [0.0, 0.1] * 20], still))
    assert cells[0] == "40"
    assert cells[1] == f"{(0.075 + 0.05) / 2:.4f}"
    assert cells[2].startswith(f"{(1.875 + 0.05) / 2:.4f}")
    assert cells[3:] == ("0.0500", "1 of 2")


def test_a_policy_that_is_sure_of_itself_can_end_above_too():
    rising, flat, still = [0.0] * 20 + [0.5] * 20, [0.2] * 40, [0.0, 0.3] * 20
    assert learning_cells(Returns([rising, flat], [still]))[-1] == "2 of 2"
    assert learning_cells(Returns([flat], [flat]))[-1] == "0 of 1"


def test_learning_curves(tmp_path, monkeypatch):
    """The curves of two runs, by hand; the longer run is drawn as far as the shorter one."""
    drawn = {}
    monkeypatch.setattr(
        "matplotlib.axes.Axes.plot", lambda axes, x, y, *line, label, **style: drawn.update({label: (x, y)})
    )
    monkeypatch.setattr("matplotlib.axes.Axes.axhline", lambda axes, y, label, **style: drawn.update({label: y}))
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda axes, **style: None)
    runs = [[-1.0, -0.5] * 40, [-0.8] * 80 + [0.0] * 20]
    draw_learning(tmp_path / "learning.png", {"ppo": Returns(runs, [[-1.0] * 30, [-0.6] * 90])})
    episodes, policy = drawn["the policy's mean return"]
    assert episodes == [1.5 + 2 * part for part in range(40)]
    assert policy == pytest.approx([(-0.75 - 0.8) / 2] * 40)
    episodes, best = drawn["best so far"]
    assert list(episodes) == list(range(1, 81))
    assert best == pytest.approx([(-1.0 - 0.8) / 2, *[(-0.5 - 0.8) / 2] * 79])
    assert drawn["without learning"] == pytest.approx(-0.8)
    episodes, best = drawn["best so far without learning"]
    assert list(episodes) == list(range(1, 31))
    assert best == pytest.approx([-0.8] * 30)


def test_a_picture_of_learning_curves(tmp_path):
    panels = {f"agent {number}": Returns([[-1.0, -0.5] * 40], [[-1.0] * 30]) for number in range(5)}
    draw_learning(tmp_path / "learning.png", panels)
    assert (tmp_path / "learning.png").stat().st_size > 20_000
