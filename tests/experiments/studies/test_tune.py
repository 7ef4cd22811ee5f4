import itertools
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.common.agent import make_agent
from experiments.common.parts import part
from experiments.common.runs import CONF, Task, compose_search
from experiments.studies.tune import final_score, name_of, settings, trials
from tests.helpers.fake_evaluator import make_fake_env


def test_every_setting_once_and_the_present_one_first():
    space = {"a": [1, 2], "b": [True, False]}
    drawn = settings(space, 100, seed=0)
    assert drawn[0] == ()
    assert sorted(drawn[1:]) == sorted((f"a={a}", f"b={b}") for a, b in itertools.product(space["a"], space["b"]))
    assert len(settings(space, 2, seed=0)) == 3
    assert settings(space, 2, seed=0) == settings(space, 2, seed=0)


def config():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("tune"))


@pytest.mark.filterwarnings("ignore")  # Samplers warn of experimental and of deprecated options.
@pytest.mark.parametrize("agent", config()["agents"])
def test_the_settings_are_those_of_the_agents_config(agent):
    """Every override can be composed, and made into an agent; one without a plus is of something that is there."""
    space = config()["spaces"][agent]
    for setting in settings(space, 3, seed=1):
        composed = compose_search(Task("tabular", agent, "linear", 0, 5, setting))
        make_agent(composed.agent, make_fake_env(part("action", composed.action)))


def test_the_reported_rewards_are_not_tuned_on():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        benchmark = compose("benchmark")
    tuned = config()
    assert not set(tuned["seeds"]) & set(range(benchmark.first_seed, benchmark.first_seed + benchmark.seeds))
    for reward, *options in tuned["rewards"]:
        name = reward.partition("=")[2]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            default, changed = (compose("search", [reward, *extra]).reward for extra in ([], options))
        assert name in benchmark.rewards
        assert default != changed


def test_scores_are_between_the_ends(fake_table):
    assert final_score(Task("tabular", "random", "linear", 0, 48)) == pytest.approx(1.0)  # all of 4 * 3 * 4
    assert -1 <= final_score(Task("tabular", "random", "linear", 0, 1)) < 1


def test_every_setting_meets_the_same_rewards_and_seeds():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        played = trials(compose("tune", ["trials=2"]), "knapsack")
    assert next(iter(played)) == ()
    assert len(played) == 3
    for setting, tasks in played.items():
        assert [(task.reward, task.seed, task.overrides) for task in tasks] == [
            (reward, seed, (option, *setting))
            for reward, option in [
                ("linear", "reward.size_weight=0.5"),
                ("harmonic", "reward.beta=0.5"),
                ("soft_threshold", "reward.kappa=4"),
            ]
            for seed in (1000, 1001)
        ]


def test_a_score_is_kept_under_all_that_it_depends_on(monkeypatch):
    """Two agents' defaults must not share one, though nothing but the defaults differs."""
    task = Task("tabular", "knapsack", "linear", 1000, 100)
    name = name_of(task)
    assert name_of(replace(task, seed=1001)) != name

    def with_other_defaults(task):
        config = compose_search(task)
        config.agent.points = 99
        return config

    monkeypatch.setattr("experiments.common.runs.compose_search", with_other_defaults)
    assert name_of(task) != name
