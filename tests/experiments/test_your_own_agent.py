"""The examples of docs/your-own-agent.md, word for word."""

import sys

import numpy as np
import pytest

from experiments.common.search_run import search
from shrinkml_env.evaluation import read_ledger
from tests.helpers.fake_evaluator import make_fake_env
from tests.helpers.pages import blocks

HILL_CLIMBER, SEARCH, LOCAL_SEARCH, COMPARISON, TORCHRL = blocks("docs/your-own-agent.md")


@pytest.mark.parametrize("code", [HILL_CLIMBER, TORCHRL])
def test_is_short(code):
    assert len([line for line in code.splitlines() if line.strip()]) <= 35


@pytest.fixture
def run(configure, tmp_path, monkeypatch):
    """Runs a search with a class of one of the examples' modules; returns the configurations in order."""
    for module, code in (("my_agents", HILL_CLIMBER), ("my_searches", LOCAL_SEARCH)):
        (tmp_path / f"{module}.py").write_text(code)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    def run_search(name, *overrides):
        options = ["agent=custom", f"agent._target_={name}", "+agent.seed=${seed}", "budget=8", "finalists=1"]
        directory = search(configure(*options, *overrides), "own")
        assert (directory / "best.json").exists()
        return [dict(evaluation.ranks) for evaluation in read_ledger(directory / "evaluations.jsonl")[1]]

    return run_search


@pytest.mark.slow
def test_a_class_of_ones_own(run):
    first = run("my_agents.HillClimber", "seed=1")
    assert 1 < len(first) <= 8
    assert run("my_agents.HillClimber", "seed=2") != first
    assert run("my_agents.HillClimber", "seed=1", "+agent.noise=0.7") != first


def test_a_class_of_ones_own_learns_saves_and_loads(tmp_path):
    names = {}
    exec(HILL_CLIMBER, names)
    env = make_fake_env()
    agent = names["HillClimber"](env, seed=0).learn(400)
    rewards = [trial.reward for trial in env.problem.history]
    assert agent.best == max(rewards) > rewards[0]
    agent.save(tmp_path / "agent.npy")
    observation, _ = env.reset()
    action, _ = names["HillClimber"].load(tmp_path / "agent.npy", env).predict(observation)
    assert np.array_equal(action, agent.predict(observation)[0])
    assert env.action_space.contains(action)


def test_a_search_of_ones_own(run):
    tried = run("my_searches.LocalSearch", "seed=1")
    assert len(tried) == 8
    for number, ranks in enumerate(tried[1:], start=1):
        changes = [sum(ranks[name] != earlier[name] for name in ranks) for earlier in tried[:number]]
        assert min(changes) == 1


@pytest.mark.slow
def test_torchrl_learns_on_the_environment_directly():
    pytest.importorskip("torchrl", reason="torchrl is not installed: pip install -c constraints.txt torchrl")
    names = {}
    exec(TORCHRL, names)
    history = names["env"].unwrapped.problem.history
    assert len(history) == 10  # two batches of five episodes
    assert {int(state["step"]) for state in names["agent"].optimizer.state.values()} == {2 * 10}
    assert names["env"].unwrapped.problem.best.reward == max(trial.reward for trial in history)


@pytest.fixture
def in_a_module(tmp_path, monkeypatch):
    (tmp_path / "my_agents.py").write_text(HILL_CLIMBER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_agents", raising=False)


@pytest.mark.usefixtures("in_a_module")
def test_it_searches_from_python(capsys):
    few = "[*shrinkml_env.load_utterances('dev')[:2]]"
    code = SEARCH.replace('"budget": 200', '"budget": 3').replace("seed=0))", f"seed=0), dev={few}, test={few})")
    exec(code.replace("ShrinkML-v1", "ShrinkML-v0").replace("size=0.4, ", ""), {})
    assert "after 3 evaluations" in capsys.readouterr().out


@pytest.mark.usefixtures("in_a_module")
def test_scores_are_compared_without_the_checkout(capsys):
    names = {}
    exec(COMPARISON, names)
    assert len(names["mine"]) == len(names["ppo"]) == 2
    assert all(score <= 1 for score in names["mine"] + names["ppo"])
    assert "ConfidenceInterval" in capsys.readouterr().out
