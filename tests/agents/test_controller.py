import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from agents import Controller
from tests.helpers.fake_evaluator import make_fake_env

STEPS = 5


def make(**parts):
    return make_fake_env("discrete", **parts)


def test_learns():
    """The mean reward of what the policy samples rises well above that of random choices."""
    env = make()
    agent = Controller(env, learning_rate=1e-2, seed=0).learn(400 * STEPS)
    rewards = np.array([trial.reward for trial in env.problem.history])
    assert np.mean(rewards[-30:]) > np.mean(rewards[:30]) + 0.5 * np.std(rewards[:30])
    mean, _ = evaluate_policy(agent, Monitor(make()), n_eval_episodes=1)
    assert mean > np.quantile(rewards[:30], 0.8)


def test_the_same_seed_gives_the_same_training():
    runs = []
    for seed in (3, 3, 4):
        env = make()
        Controller(env, seed=seed).learn(15 * STEPS)
        runs.append([trial.ranks for trial in env.problem.history])
    assert runs[0] == runs[1] != runs[2]


def test_begins_with_every_candidate_alike():
    env = make()
    agent = Controller(env, seed=0)
    observation, _ = env.reset()
    first = [agent.predict(observation, action_masks=env.action_masks())[0] for _ in range(1500)]
    counts = np.bincount(first, minlength=15)
    assert len(counts) == 15  # "frontend" has no more
    # Chi-square with 14 degrees of freedom: above 36.1 with probability 0.001.
    assert ((counts - 100) ** 2 / 100).sum() < 36.1


def test_masked_actions_are_never_chosen():
    env = make(constraint={"name": "mask", "budget": 0.4})
    projected = []

    def callback(local, _):
        projected.append(local["info"]["projected"])
        return True

    Controller(env, seed=0).learn(30 * STEPS, callback=callback)
    assert len(projected) == 30 * STEPS
    assert not any(projected)


def test_one_update_by_hand():
    """The gradient is that of -(advantage / scale) log p - weight * entropy, averaged over the episodes."""
    env = make()
    agent = Controller(env, episodes_per_update=2, entropy_weight=0.5, seed=0)
    with torch.no_grad():
        before = agent.policy.logits.bias.clone()
    episodes = [agent._play(env, None, _NoBar()) for _ in range(2)]
    rewards = [episode.reward for episode in episodes]
    mean, scale = np.mean(rewards), abs(rewards[0] - rewards[1]) / 2
    expected = torch.stack(
        [
            -(reward - mean) / scale * episode.log_probability - 0.5 * episode.entropy
            for reward, episode in zip(rewards, episodes, strict=True)
        ]
    ).mean()
    gradient = torch.autograd.grad(expected, agent.policy.logits.bias, retain_graph=True)[0]
    agent._update(episodes)
    assert torch.allclose(agent.policy.logits.bias.grad, gradient, atol=1e-6)
    assert agent.baseline == pytest.approx(mean)
    assert not torch.equal(before, agent.policy.logits.bias)


class _NoBar:
    def update(self):
        pass


def test_saves_and_loads(tmp_path):
    env = make()
    agent = Controller(env, units=8, seed=1).learn(10 * STEPS)
    agent.save(tmp_path / "agents" / "controller")
    loaded = Controller.load(tmp_path / "agents" / "controller", make())
    assert (loaded.num_timesteps, loaded.settings) == (10 * STEPS, agent.settings)
    observations = np.stack([env.observation_space.sample() for _ in range(3)])
    state = other = None
    for _ in range(3):
        one, state = agent.predict(observations, state, deterministic=True)
        two, other = loaded.predict(observations, other, deterministic=True)
        assert np.array_equal(one, two)
    loaded.learn(STEPS)
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="other was not saved by Controller"):
        Controller.load(tmp_path / "other")
    with pytest.raises(ValueError, match="other spaces"):
        Controller.load(tmp_path / "agents" / "controller", make(search_space={"name": "full", "count": 3}))


def test_memory_begins_anew_with_an_episode():
    env = make()
    agent = Controller(env, seed=0)
    observation = env.reset()[0][None]
    _, used = agent.predict(observation)
    _, fresh = agent.predict(observation, used, np.array([True]))
    _, kept = agent.predict(observation, used, np.array([False]))
    assert np.array_equal(fresh[0], used[0])
    assert not np.array_equal(kept[0], used[0])


def test_other_spaces_are_refused():
    with pytest.raises(ValueError, match="use action=discrete"):
        Controller(make_fake_env("continuous"))
    with pytest.raises(ValueError, match="use observation=features"):
        Controller(make(observation="dict"))
    with pytest.raises(RuntimeError, match="no environment"):
        Controller().learn(1)


def test_several_environments_are_refused():
    with pytest.raises(TypeError, match="Controller plays one environment, got a SyncVectorEnv"):
        Controller(gym.vector.SyncVectorEnv([make]))


@pytest.mark.parametrize("wrong", [{"units": 0}, {"episodes_per_update": 0}, {"baseline_decay": 1.0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        Controller(make(), **wrong)


def test_any_box_of_observations():
    env = gym.wrappers.TransformObservation(
        make(), np.float64, gym.spaces.Box(-np.inf, np.inf, make().observation_space.shape, np.float64)
    )
    agent = Controller(env, seed=0)
    agent.predict(env.reset()[0])
    assert agent.learn(STEPS).num_timesteps >= STEPS
    shifted = make()
    shifted.action_space = gym.spaces.Discrete(3, start=1)
    with pytest.raises(ValueError, match="Discrete actions from 0"):
        Controller(shifted)
