"""Libraries that know nothing of ShrinkML play its environments; each test runs where its library is installed."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

import shrinkml_env  # noqa: F401 - registers the ids
from shrinkml_env import Ledger
from shrinkml_env.envs.registration import make_tabular_env, make_vector_tabular_env
from shrinkml_env.envs.vector import VectorShrinkEnv
from tests.helpers.fake_evaluator import make_fake_env
from tests.helpers.fake_table import TABLE

STEPS = {"single": 5, "vector": 5, "tabular": 3, "vector tabular": 3}
"""Environment -> steps of an episode."""


def make(kind, action="discrete"):
    if kind == "single":
        return make_fake_env(action, ledger=Ledger())
    if kind == "vector":
        return VectorShrinkEnv(make_fake_env(action, ledger=Ledger()), 2)
    if kind == "tabular":
        return make_tabular_env(action, table=TABLE)
    return make_vector_tabular_env(2, action=action, table=TABLE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STEPS)
def test_torchrl(kind):
    envs = pytest.importorskip(
        "torchrl.envs", reason="torchrl is not installed: pip install -c constraints.txt torchrl"
    )
    env = make(kind, "continuous")
    played = envs.GymWrapper(env).rollout(3 * STEPS[kind], break_when_any_done=False)
    rewards, done = (played["next", name].reshape(-1, 3 * STEPS[kind]) for name in ("reward", "done"))
    assert done.shape == (env.num_envs if "vector" in kind else 1, 3 * STEPS[kind])
    assert (done.nonzero()[:, 1] % STEPS[kind] == STEPS[kind] - 1).all()
    assert done.sum() == 3 * len(done)
    # Played by a random policy: every episode's reward is that of one of the configurations measured.
    if kind == "single":
        assert set(rewards[done].tolist()) == set(np.float32([trial.reward for trial in env.problem.history]).tolist())
    assert (rewards[~done] == 0).all()


@pytest.mark.slow
def test_processes_of_a_notebook_find_the_environments():
    """A notebook has no main module that another process could import, and so could register the ids."""
    program = """
import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv
import shrinkml_env

NAME = "ShrinkMLTabular-v0"
asynchronous = {"vectorization_mode": "async", "vector_kwargs": {"context": "spawn"}}
for make in (
    lambda: gym.make_vec(NAME, num_envs=1, **asynchronous),
    lambda: SubprocVecEnv([lambda: gym.make(f"shrinkml_env:{NAME}")]),
):
    envs = make()
    envs.reset()
    envs.close()
print("found")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout == "found\n", run.stderr


@pytest.mark.xfail(
    tuple(map(int, gym.__version__.split(".")[:2])) < (1, 4),
    reason="the wrapper does not count the first step after an episode has ended",
    strict=True,
)
@pytest.mark.parametrize("kind", ["vector", "vector tabular"])
def test_a_loop_as_in_cleanrl(kind):
    """One update of PPO's loss, written out as CleanRL's ppo.py does."""
    envs = gym.wrappers.vector.RecordEpisodeStatistics(make(kind))
    torch.manual_seed(0)
    features, actions = envs.single_observation_space.shape[0], envs.single_action_space.n
    actor, critic = torch.nn.Linear(features, actions), torch.nn.Linear(features, 1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-2)
    observation, _ = envs.reset(seed=1)
    steps, returns = [], []
    for _ in range(2 * STEPS[kind]):
        seen = torch.as_tensor(observation)
        policy = torch.distributions.Categorical(logits=actor(seen))
        chosen = policy.sample()
        observation, reward, terminated, truncated, infos = envs.step(chosen.numpy())
        steps.append((seen, chosen, policy.log_prob(chosen).detach(), torch.as_tensor(reward, dtype=torch.float32)))
        assert not truncated.any()
        if terminated.any():
            assert (infos["episode"]["l"] == STEPS[kind]).all()
            returns.append(infos["episode"]["r"])
    assert len(returns) == 2
    seen, chosen, old, rewards = (torch.stack(part) for part in zip(*steps, strict=True))
    # The only reward of an episode is its last.
    expected = np.stack(returns)
    assert rewards.reshape(2, STEPS[kind], 2).sum(1).numpy() == pytest.approx(expected, rel=1e-6)
    target = torch.as_tensor(expected, dtype=torch.float32).repeat_interleave(STEPS[kind], 0)
    losses = []
    for _ in range(5):
        ratio = (torch.distributions.Categorical(logits=actor(seen)).log_prob(chosen) - old).exp()
        value = critic(seen).squeeze(-1)
        advantage = (target - value).detach()
        loss = (
            -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean() + (target - value).square().mean()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
