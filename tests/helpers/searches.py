"""Whole searches on a small recogniser: its sets, environments and agents."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from stable_baselines3 import PPO

from tests.helpers.learners import ppo
from tests.helpers.models import TinyCTC, half_recognised

MODEL = TinyCTC()
PROXY, DEV, TEST = (half_recognised(MODEL, 4, seed) for seed in range(3))


def make(budget: int = 6, **arguments: Any) -> gym.Env[Any, Any]:
    """Return an environment of few utterances; arguments as those of `gym.make`."""
    arguments = {"model": MODEL, "proxy": PROXY, "ledger": {"budget": budget}, "cache": None} | arguments
    return gym.make("ShrinkML-v0", **arguments)


class Sampler:
    """An agent that knows nothing of Stable-Baselines3, callbacks, saving or budgets."""

    def __init__(self, env: gym.Env[Any, Any], seed: int = 0) -> None:
        self.env, self.seed = env, seed

    def learn(self, total_timesteps: int) -> None:
        self.env.action_space.seed(self.seed)
        self.env.reset(seed=self.seed)
        for _ in range(total_timesteps):
            _, _, over, _, _ = self.env.step(self.env.action_space.sample())
            if over:
                self.env.reset()


def seeded(seed: int = 0, **arguments: Any) -> tuple[gym.Env[Any, Any], PPO]:
    """Return an environment, and an agent of it with a seed."""
    env = make(**arguments)
    return env, ppo(env, seed=seed)
