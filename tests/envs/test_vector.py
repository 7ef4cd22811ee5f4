import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from shrinkml_env.envs import registration
from shrinkml_env.envs.registration import make_vector_env
from shrinkml_env.envs.shrink import MaskableShrinkEnv
from shrinkml_env.envs.vector import MaskableVectorShrinkEnv, VectorShrinkEnv
from shrinkml_env.evaluation.ledger import BudgetExhausted, Ledger
from shrinkml_env.mdp.actions import ACTIONS
from shrinkml_env.sb3 import ShrinkVecEnv
from tests.helpers.fake_evaluator import FakeEvaluator, make_fake_env
from tests.helpers.levels import make_levelled_env

STEPS = 5


def make(num_envs=3, action="continuous", **parts):
    env = make_levelled_env(action, **parts)
    return (MaskableVectorShrinkEnv if isinstance(env, MaskableShrinkEnv) else VectorShrinkEnv)(env, num_envs)


class InNumbers(gym.Wrapper):
    """Infos as a batch has them: no names, and as many ranks at every step."""

    def reset(self, **options):
        observation, info = self.env.reset(**options)
        return observation, info | {"ranks": np.zeros(STEPS, np.int64)}

    def step(self, action):
        *results, info = self.env.step(action)
        names = [layer.name for layer in self.env.layers]
        ranks = np.array([info["ranks"].get(name, 0) for name in names])
        return *results, info | {"layer": names.index(info["layer"]), "ranks": ranks}


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_same_as_single_environments(kind):
    """As Gymnasium's own vector environment of as many single ones, number for number."""
    envs = make(action=kind)
    reference = gym.vector.SyncVectorEnv(
        [lambda: InNumbers(make_levelled_env(kind))] * 3, autoreset_mode=AutoresetMode.SAME_STEP
    )
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.action_space == reference.action_space
    assert envs.observation_space == reference.observation_space
    assert repr(envs.reset(seed=4)) == repr(reference.reset(seed=4))
    envs.action_space.seed(1)
    for _ in range(3 * STEPS):
        action = envs.action_space.sample()
        assert repr(envs.step(action)) == repr(reference.step(action))


def test_what_is_completed_together_is_measured_together():
    class Evaluator(FakeEvaluator):
        def evaluate_many(self, configurations):
            batches.append(len(configurations))
            return super().evaluate_many(configurations)

    batches = []
    envs = make(4, "discrete", evaluator=Evaluator())
    envs.reset()
    for _ in range(STEPS):
        envs.step(np.array([0, 3, 0, 24]))
    assert batches == [0] * (STEPS - 1) + [3]  # two are the same
    assert envs.envs[0].problem.ledger.count == 3


def test_the_budget_is_kept():
    evaluator = FakeEvaluator()
    envs = make(4, "discrete", evaluator=evaluator, ledger=Ledger(budget=2))
    envs.reset()
    for _ in range(STEPS - 1):
        envs.step(np.arange(4))
    with pytest.raises(BudgetExhausted):
        envs.step(np.arange(4))
    assert len(evaluator.measured) == 2
    assert envs.envs[0].problem.ledger.count == 2


def test_masks_and_seeds():
    envs = make(2, "discrete")
    with pytest.raises(ValueError, match="3 seeds for 2"):
        envs.reset(seed=[1, 2, 3])
    envs.reset(seed=[1, 2])
    assert envs.action_masks().shape == (2, 25)
    assert envs.action_masks().sum() == 30
    with pytest.raises(ValueError, match="num_envs must be a whole number of at least 1"):
        make(0)


@pytest.mark.parametrize("kind", ACTIONS)
def test_masks_only_where_the_actions_have_them(kind, monkeypatch):
    monkeypatch.setattr(registration, "make_env", make_levelled_env)
    envs = make_vector_env(2, action=kind)
    assert hasattr(envs, "action_masks") is (kind == "discrete")
    assert envs.num_envs == 2


def test_stable_baselines_sees_what_its_own_vector_environment_shows():
    envs, reference = ShrinkVecEnv(make(2)), DummyVecEnv([lambda: make_fake_env()] * 2)
    assert repr(envs.reset()) == repr(reference.reset())
    envs.action_space.seed(0)
    for _ in range(2 * STEPS):
        actions = np.stack([envs.action_space.sample() for _ in range(2)])
        (observations, rewards, dones, infos), expected = envs.step(actions), reference.step(actions)
        assert repr((observations, rewards, dones)) == repr(expected[:3])
        for info, wanted in zip(infos, expected[3], strict=True):
            assert info.pop("TimeLimit.truncated", False) == wanted.pop("TimeLimit.truncated")
            if "terminal_observation" in wanted:
                assert info.pop("episode") == {"r": pytest.approx(sum(wanted["reward_terms"].values())), "l": STEPS}
                assert np.array_equal(info.pop("terminal_observation"), wanted.pop("terminal_observation"))
            assert info == wanted
    assert envs.get_attr("render_mode") == [None, None]
    assert envs.env_is_wrapped(gym.Wrapper) == [False, False]


def test_agents_run_on_it():
    PPO("MlpPolicy", ShrinkVecEnv(make(4)), n_steps=10, batch_size=20, n_epochs=2, gamma=1.0, seed=0).learn(80)

    class NothingProjected(BaseCallback):
        def _on_step(self):
            assert not any(info["projected"] for info in self.locals["infos"])
            return True

    envs = ShrinkVecEnv(make(3, "discrete", constraint={"name": "mask", "budget": 0.4}))
    agent = MaskablePPO("MlpPolicy", envs, n_steps=10, batch_size=10, n_epochs=1, gamma=1.0, seed=0)
    agent.learn(90, callback=NothingProjected())
    (of_the_second,) = envs.env_method("action_masks", indices=[1])
    assert np.array_equal(of_the_second, envs.envs.action_masks()[1])


def test_at_the_budgets_end_all_episodes_stand_where_they_stood():
    envs = make(2, "discrete", ledger=Ledger(budget=1))
    envs.reset(seed=0)
    for _ in range(STEPS - 1):
        envs.step(np.array([0, 1]))
    with pytest.raises(BudgetExhausted):
        envs.step(np.array([0, 1]))
    assert [len(env._ranks) for env in envs.envs] == [STEPS - 1, STEPS - 1]
    assert envs.envs[0].problem.ledger.count == 1


def test_each_environment_has_its_own_randomness():
    env = make_fake_env()
    env.reset(seed=0)
    envs = VectorShrinkEnv(env, 3)
    assert len({id(single.np_random) for single in envs.envs}) == 3


def test_what_stable_baselines_cannot_do():
    with pytest.raises(ValueError, match=r"needs a scalar reward, .* LinearReward"):
        ShrinkVecEnv(make(2, reward="vector"))
    with pytest.raises(TypeError, match=r"envs must be what gym\.make_vec.* returns, got"):
        ShrinkVecEnv(make_fake_env())


@pytest.mark.slow
def test_pictures_for_stable_baselines():
    envs = ShrinkVecEnv(make(2, render_mode="rgb_array"))
    envs.reset()
    (first, second) = envs.get_images()
    assert first.shape == second.shape
    assert envs.render("rgb_array").dtype == np.uint8


def test_seeds_may_be_numpys():
    drawn = []
    for seed in 3, np.int64(3), [3, 4], np.array([3, 4]):
        envs = make(2)
        envs.reset(seed=seed)
        drawn.append([float(env.np_random.random()) for env in envs.envs])
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3]
    assert drawn[0][0] != drawn[0][1]


def test_a_reward_that_raises_leaves_all_episodes_where_they_were():
    def reward(evaluation, baseline):
        if evaluation.size_ratio < 1:
            raise ValueError("too small for me")
        return 0.0

    single = make_fake_env(reward=reward)
    env = VectorShrinkEnv(single, 2)
    env.reset(seed=0)
    dense, small = single.actions_for(single.problem.search_space.dense), single.actions_for({"output": 13})
    for first, second in zip(dense[:-1], small[:-1], strict=True):
        env.step(np.stack([first, second]))
    with pytest.raises(ValueError, match="too small for me"):
        env.step(np.stack([dense[-1], small[-1]]))
    *_, terminated, _, _ = env.step(np.stack([dense[-1], dense[-1]]))
    assert terminated.all()


def test_the_number_of_actions_is_checked():
    env = VectorShrinkEnv(make_fake_env(), 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="3 actions for 2 environments"):
        env.step(np.zeros((3, 1), np.float32))


def test_after_any_error_all_episodes_stand_where_they_stood():
    class Failing(type(make_fake_env().observation)):
        fails = False

        def __call__(self, ranks):
            if self.fails and ranks and ranks[-1] != self.problem.layers[len(ranks) - 1].max_rank:
                raise RuntimeError("mine")
            return super().__call__(ranks)

    env = VectorShrinkEnv(make_fake_env(observation=Failing), 2)
    env.reset(seed=0)
    env.first.observation.fails = True
    with pytest.raises(RuntimeError, match="mine"):
        env.step(np.array([[1.0], [-1.0]], np.float32))
    *_, infos = env.step(np.array([[1.0], [1.0]], np.float32))
    assert infos["layer"].tolist() == [0, 0]


def test_a_seed_reaches_the_batch_itself():
    numbers = []
    for _ in range(2):
        env = make()
        env.reset(seed=5)
        numbers.append(env.np_random.random())
    assert numbers[0] == numbers[1]
    assert env.np_random_seed == 5
