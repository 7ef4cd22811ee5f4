"""The action in the middle of the action space, which an agent takes that has learned and explores nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agents.base import Callback, environment_of, require_one_environment
from shrinkml_env.files import read_json_object, write_atomic

__all__ = ["MiddleAction"]


class MiddleAction:
    """Plays one episode, every action of which is the middle of the action space: 0 of [-1, 1], or the middle index.

    With the action ``level`` that is nearly the configuration at the common level; a constraint may change it. A
    baseline for agents that learn: what they find counts as learned as far as it is better.

    Attributes:
        env: The environment, or None after `load` without one.
        num_timesteps: Steps taken so far.
    """

    def __init__(self, env: gym.Env[Any, Any] | None = None, seed: int | None = None) -> None:
        """Set the initial state.

        Args:
            env: A ShrinkML environment, wrapped or not.
            seed: Seed of the environment's reset; nothing here is random.

        Raises:
            TypeError: It is something else, such as several environments in one.
        """
        require_one_environment(self, env)
        self.env = env
        self.seed = seed
        self.num_timesteps = 0
        self._played = False

    def learn(self, total_timesteps: int, callback: Callback | None = None, progress_bar: bool = False) -> Self:
        """Play the episode; there is nothing else to try, so that a later call does nothing.

        Args:
            total_timesteps: Not used: an episode is always played to its end.
            callback: Called after each step with (locals, globals); when it returns False, learning ends.
            progress_bar: Not used.

        Raises:
            RuntimeError: The agent has no environment.
        """
        env = environment_of(self)
        if self._played:
            return self
        self._played = True
        observation, _ = env.reset(seed=self.seed)
        over = False
        while not over:
            action, _ = self.predict(observation)
            observation, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
            self.num_timesteps += 1
            if callback is not None and callback(locals(), globals()) is False:
                break
        return self

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, None]:
        """Return the middle action, whatever is observed, or a batch of it for a batch of observations.

        Args:
            observation: One observation of the environment, or a batch.
            state: Not used; as in Stable-Baselines3.
            episode_start: Not used.
            deterministic: Not used.

        Raises:
            RuntimeError: The agent has no environment.
        """
        env = environment_of(self)
        middle = _middle(env.action_space)
        seen, space = observation, env.observation_space
        if isinstance(space, spaces.Dict):
            name = next(iter(space))
            seen, space = observation[name], space[name]
        assert space.shape is not None
        if np.ndim(seen) == len(space.shape):
            return middle, None
        return np.stack([middle] * len(seen)), None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the number of steps, which is all that there is, as JSON."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({"num_timesteps": self.num_timesteps}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: gym.Env[Any, Any] | None = None) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: The file is not one of `save`'s.
        """
        record = read_json_object(Path(path))
        if not isinstance(record.get("num_timesteps"), int):
            raise ValueError(f"{path} was not saved by {cls.__name__}: it lacks num_timesteps")
        agent = cls(env)
        agent.num_timesteps = record["num_timesteps"]
        return agent


def _middle(space: gym.Space[Any]) -> Any:
    """Return the middle of an action space."""
    if isinstance(space, spaces.Discrete):
        return space.start + space.n // 2
    if isinstance(space, spaces.MultiDiscrete):
        return space.start + space.nvec // 2
    assert isinstance(space, spaces.Box)
    return ((space.low + space.high) / 2).astype(np.float32)
