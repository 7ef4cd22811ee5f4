"""The callback of agents, as in Stable-Baselines3, and the checks of their environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

__all__ = ["Callback", "environment_of", "require_one_environment"]

Callback = Callable[[dict[str, Any], dict[str, Any]], bool]
"""A functional callback as in Stable-Baselines3: called with (locals, globals) after each step; False ends `learn`."""


def require_one_environment(agent: object, env: Any) -> None:
    """Check that an agent that plays one episode at a time has a single environment, or None.

    Raises:
        TypeError: The argument is not an environment, or is a vector environment.
    """
    if env is not None and not isinstance(env, gym.Env):
        raise TypeError(
            f"{type(agent).__name__} plays one environment, got a {type(env).__name__}: for several (num_envs) take an "
            "agent of Stable-Baselines3"
        )


def environment_of(agent: Any) -> gym.Env[Any, Any]:
    """Return the attribute `env` of an agent.

    Raises:
        RuntimeError: It is None, as it is after `load` without an environment.
    """
    if agent.env is None:
        raise RuntimeError("the agent has no environment: give one to load() or set agent.env")
    env: gym.Env[Any, Any] = agent.env
    return env
