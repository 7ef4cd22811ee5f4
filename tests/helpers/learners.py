"""Agents for tests of searches."""

from __future__ import annotations

from typing import Any

from stable_baselines3 import PPO

__all__ = ["ppo"]


def ppo(env: Any, **options: Any) -> PPO:
    """Return PPO with small batches."""
    options = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "gamma": 1.0, "seed": 0} | options
    return PPO("MlpPolicy", env, **options)
