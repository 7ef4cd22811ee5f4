import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from shrinkml_env import Ledger
from shrinkml_env.envs.vector import VectorShrinkEnv
from shrinkml_env.policy import policy_ranks
from shrinkml_env.sb3 import ShrinkVecEnv
from tests.helpers.fake_evaluator import make_fake_env


class Recorder:
    """An agent that decides the same for every layer and records how it is asked."""

    def __init__(self, action):
        self.action, self.asked = action, []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.asked.append((observation, state, episode_start, deterministic))
        return self.action, len(self.asked)


def played(env, agent, **options):
    """What `agent` decides in a whole episode, which is measured."""
    observation, _ = env.reset()
    over, info = False, {}
    while not over:
        action, _ = agent.predict(observation, deterministic=True, **options)
        observation, _, over, _, info = env.step(action)
    return info["ranks"]


@pytest.mark.parametrize(
    ("algorithm", "action"), [(PPO, "continuous"), (SAC, "continuous"), (PPO, "discrete"), (PPO, "one_shot")]
)
def test_the_policy_decides_without_exploration_and_without_an_evaluation(algorithm, action):
    env = make_fake_env(action=action, ledger=Ledger(budget=0))
    agent = algorithm("MlpPolicy", env, seed=3)
    found = policy_ranks(env, agent)
    assert env.unwrapped.problem.ledger.count == 0
    assert found == policy_ranks(env, agent) == played(make_fake_env(action=action), agent)


def test_a_policy_with_memory_is_told_where_the_episode_begins():
    env, agent = make_fake_env(), Recorder(np.zeros(1, np.float32))
    policy_ranks(env, agent)
    layers = len(env.unwrapped.layers)
    assert [(state, bool(begins[0]), deterministic) for _, state, begins, deterministic in agent.asked] == [
        (None if index == 0 else index, index == 0, True) for index in range(layers)
    ]
    assert policy_ranks(env, RecurrentPPO("MlpLstmPolicy", env, seed=0)) is not None


def test_masked_actions_are_not_taken():
    env = make_fake_env(action="discrete", constraint={"name": "mask", "budget": 0.5})
    agent = MaskablePPO("MlpPolicy", env, seed=0)
    found = policy_ranks(env, agent)
    assert env.unwrapped.problem.is_feasible(found)


def test_wrappers_belong_to_what_the_policy_sees():
    env = gym.wrappers.TransformObservation(make_fake_env(), lambda seen: seen + 1, None)
    agent = Recorder(np.zeros(1, np.float32))
    policy_ranks(env, agent)
    plain, _ = env.unwrapped.reset()
    np.testing.assert_array_equal(agent.asked[0][0], plain + 1)


def test_observations_are_normalised_as_in_training():
    env = make_fake_env()
    normalised = VecNormalize(DummyVecEnv([lambda: env]), clip_obs=0.5)
    agent = PPO("MlpPolicy", normalised, n_steps=8, batch_size=8, seed=0)
    agent.learn(8)
    seen = []
    predict = agent.predict

    def recorded(observation, **options):
        seen.append(observation)
        return predict(observation, **options)

    agent.predict = recorded
    policy_ranks(env, agent)
    assert max(np.abs(observation).max() for observation in seen) <= 0.5


def test_of_several_environments_the_first_is_played():
    envs = VectorShrinkEnv(make_fake_env(), 2)
    agent = PPO("MlpPolicy", ShrinkVecEnv(envs), n_steps=8, batch_size=8, seed=0)
    assert policy_ranks(agent.get_env(), agent) == played(make_fake_env(), agent)


def test_an_agent_without_a_policy_decides_nothing():
    assert policy_ranks(make_fake_env(), object()) is None
