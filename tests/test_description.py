"""By what a directory knows its search: the classes and the settings of the agent and of the other parts."""

import inspect
import json
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from optuna.samplers import NSGAIISampler, TPESampler
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise

import agents
from agents import AMC, ClosedForm, Controller, ModelBasedSearch, OptunaSearch, RandomSearch, UniformRank
from shrinkml_env import Ledger
from shrinkml_env.description import describe
from shrinkml_env.mdp.actions import ACTIONS
from shrinkml_env.mdp.constraints import CONSTRAINTS
from shrinkml_env.mdp.observations import OBSERVATIONS
from shrinkml_env.mdp.rewards import REWARDS
from shrinkml_env.mdp.shaping import POTENTIALS
from shrinkml_env.sb3 import BudgetCallback
from shrinkml_env.search_directory import claim, describe_search
from tests.helpers.fake_evaluator import make_fake_env
from tests.helpers.learners import ppo
from tests.helpers.levels import make_levelled_env


def env_for(kind):
    action = "discrete" if kind in (Controller, DQN) else "continuous"
    return make_fake_env(action=action, ledger=Ledger(budget=2))


def amc(env, **options):
    return AMC("MlpPolicy", env, buffer_size=100, **options)


@dataclass
class Linear:
    """A schedule with settings."""

    start: float

    def __call__(self, remaining):
        return remaining * self.start


def schedule(remaining):
    return 1e-3 * remaining


def other_schedule(remaining):
    return 1e-2 * remaining


class Renames:
    """Keeps an argument under another name, beside what is no setting."""

    def __init__(self, env, learning_rate):
        self.env, self.lr, self.options = env, learning_rate, {"layers": [64, learning_rate]}
        self.weights, self._steps = np.zeros(3), 0

    def learn(self, total_timesteps):
        pass


@pytest.mark.parametrize(
    ("make", "was", "now", "message"),
    [
        (Controller, {"seed": 0, "units": 8}, {"seed": 1, "units": 16}, "agent.seed 0, not 1; agent.units 8, not 16"),
        (
            amc,
            {"seed": 0, "learning_rate": 1e-3},
            {"seed": 1, "learning_rate": 1e-2},
            "agent.learning_rate 0.001, not 0.01; agent.seed 0, not 1",
        ),
        (
            OptunaSearch,
            {"sampler": TPESampler(seed=0)},
            {"sampler": NSGAIISampler(seed=0)},
            "agent.sampler.name 'TPESampler', not 'NSGAIISampler'",
        ),
        (
            OptunaSearch,
            {"sampler": NSGAIISampler(mutation_prob=0.1)},
            {"sampler": NSGAIISampler(mutation_prob=0.2)},
            "agent.sampler.child_generation_strategy.mutation_prob 0.1, not 0.2",
        ),
        (ModelBasedSearch, {}, {"rules": [UniformRank()]}, r"agent.rules \[\], not \[{'name': 'UniformRank'"),
        (
            ModelBasedSearch,
            {"rules": [ClosedForm(draws=1)]},
            {"rules": [ClosedForm(draws=2)]},
            "agent.rules .*'draws': 1.*, not .*'draws': 2",
        ),
        (RandomSearch, {"seed": None}, {"seed": 3}, "agent.seed None, not 3"),
        (RandomSearch, {"seed": 3}, {"seed": None}, "agent.seed 3, not None"),
        (ppo, {"learning_rate": schedule}, {"learning_rate": other_schedule}, "agent.learning_rate.name .*schedule'"),
        (ppo, {}, {"learning_rate": Linear(1)}, "agent.learning_rate 0.0003, not {'name': 'Linear"),
        (ppo, {"clip_range": 0.1}, {"clip_range": 0.2}, r"agent\.clip_range.* 0\.1.* 0\.2"),
        (
            ppo,
            {"policy_kwargs": {"net_arch": [64]}},
            {"policy_kwargs": {"activation_fn": torch.nn.ReLU}},
            r"policy_kwargs.activation_fn nothing, not {'name': '.*ReLU'}; agent.policy_kwargs.net_arch \[64\], not no",
        ),
        (
            lambda env, scale: DDPG("MlpPolicy", env, 1e-3, 100, action_noise=NormalActionNoise(np.zeros(1), scale)),
            {"scale": np.full(1, 0.1)},
            {"scale": np.full(1, 0.2)},
            r"agent.action_noise.sigma '\[0.1\]', not '\[0.2\]'",
        ),
        (Renames, {"learning_rate": 0.5}, {"learning_rate": 0.1}, r"agent.lr 0.5, not 0.1; agent.options.layers \[64,"),
    ],
)
def test_another_agent_is_refused(make, was, now, message, tmp_path):
    env = env_for(make)
    for _ in range(2):
        claim(tmp_path, describe_search(env, make(env, **was)))
    with pytest.raises(ValueError, match=f"holds a search with .*{message}"):
        claim(tmp_path, describe_search(env, make(env, **now)))


@pytest.mark.parametrize("kind", [PPO, A2C, DDPG, TD3, SAC, DQN, AMC], ids=lambda kind: kind.__name__)
def test_an_algorithm_that_has_learned_is_the_same_search(kind):
    env = env_for(kind)
    agent = kind("MlpPolicy", env, seed=0, gamma=1.0, verbose=1, device="cpu")
    before = describe(agent)
    agent.learn(1000, callback=BudgetCallback())
    assert describe(agent) == before
    assert json.loads(json.dumps(before)) == before
    assert {"learning_rate", "seed", "gamma", "policy", "policy_kwargs"} < before.keys()
    assert not {"verbose", "device", "env", "tensorboard_log"} & before.keys()
    assert before["policy"] == {"name": type(agent.policy).__name__}


def test_what_is_no_setting():
    agent = Renames(None, 0.5)
    assert describe(agent) == {"name": "Renames", "lr": 0.5, "options": {"layers": [64, 0.5]}}


def test_objects_in_one_another_are_described_to_a_depth():
    @dataclass
    class Holds:
        inner: object
        number: int = 1

    assert describe(Holds(Holds({2, 1}), 3)) == {
        "name": "Holds",
        "inner": {"name": "Holds", "inner": [1, 2], "number": 1},
        "number": 3,
    }
    endless = Holds(None)
    endless.inner = endless
    assert str(describe(endless)).count("Holds") == 5


AGENTS = [getattr(agents, name) for name in agents.__all__ if name not in ("AMC", "RankRule")]


@pytest.mark.parametrize(
    "kind",
    [
        *AGENTS,
        *(kind for parts in (ACTIONS, OBSERVATIONS, CONSTRAINTS, POTENTIALS, REWARDS) for kind in parts.values()),
    ],
    ids=lambda kind: kind.__name__,
)
def test_our_parts_keep_their_arguments_under_their_names(kind):
    problem = make_levelled_env().unwrapped.problem
    known = {"problem": problem, "evaluator": problem.evaluator, "search_space": problem.search_space, "budget": 0.5}
    parameters = inspect.signature(kind).parameters
    given = {
        name: known.get(name, -0.5)  # a number that every reward takes
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
    }
    assert describe(kind(**given)).keys() == {"name", *parameters} - {"env", "problem", "evaluator", "search_space"}


def test_a_partial_is_known_by_its_function_and_arguments():
    described = [describe(partial(schedule, *arguments)) for arguments in [(), (1.0,), (2.0,)]]
    described += [describe(partial(schedule, remaining=1.0)), describe(partial(other_schedule, 1.0))]
    assert len({json.dumps(one) for one in described}) == 5
    assert described[1]["function"] == describe(schedule)
    assert describe(partial(schedule, 1.0)) == described[1]


def test_spaces_that_differ_in_their_levels_alone_are_different_searches():
    env = make_levelled_env()
    space = env.problem.search_space
    assert space.levels is not None
    before = describe_search(env, RandomSearch(env))
    # Frozen, as every search space is.
    object.__setattr__(space, "levels", tuple(tuple(reversed(of_layer)) for of_layer in space.levels))
    assert describe_search(env, RandomSearch(env))["search space"] != before["search space"]
