"""What searchers that propose whole configurations share."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

__all__ = ["Callback", "EpisodicSearch"]

Callback = Callable[[dict[str, Any], dict[str, Any]], bool]
"""Stable-Baselines3's functional callback: called with (locals, globals) after each step; False ends `learn`."""


class EpisodicSearch(ABC):
    """Proposes a configuration, plays it as one episode, and remembers the best.

    It has the part of Stable-Baselines3's `BaseAlgorithm` that matters and sees only the Gymnasium API, besides
    ``env.unwrapped.problem`` and ``env.unwrapped.actions_for``. The policy is to repeat the best episode so far.

    Attributes:
        env: The environment, or None after `load` without one.
        num_timesteps: Steps taken so far.
        best_ranks: The configuration of the best episode, layer name -> rank; empty before the first.
        best_return: Its undiscounted return.
    """

    def __init__(self, env: gym.Env[Any, Any] | None, seed: int | None = None) -> None:
        """A searcher that has not begun.

        Args:
            env: A ShrinkML environment, wrapped or not.
            seed: The same seed gives the same search.
        """
        self.env = env
        self.seed = seed
        self.num_timesteps = 0
        self.best_ranks: dict[str, int] = {}
        self.best_return = -np.inf
        self._observations: NDArray[Any] = np.empty(0)
        self._actions: NDArray[Any] = np.empty(0)

    @abstractmethod
    def propose(self) -> Mapping[str, int] | None:
        """The next configuration to try, layer name -> candidate rank; None when there is nothing left to try."""

    def learn(self, total_timesteps: int, callback: Callback | None = None, progress_bar: bool = False) -> Self:
        """Play whole episodes until at least `total_timesteps` steps have been taken, or nothing is left to try.

        A later call goes on where this one ended. `BudgetExhausted` passes through; what was found stays.

        Args:
            total_timesteps: Number of steps of this call; an episode has one for each layer.
            callback: Called after each step; when it returns False, learning ends.
            progress_bar: Show one on the terminal.

        Raises:
            TypeError: The callback is not a function.
        """
        if callback is not None and not callable(callback):
            raise TypeError(
                f"callback must be a function of (locals, globals) that returns a bool, got {type(callback).__name__}; "
                "Stable-Baselines3's callback objects work with its own agents only"
            )
        env = self._environment()
        end = self.num_timesteps + total_timesteps
        with tqdm(total=total_timesteps, disable=not progress_bar, unit="step") as bar:
            while self.num_timesteps < end:
                ranks = self.propose()
                if ranks is None or not self._play(env, ranks, callback, bar):
                    break
        return self

    def predict(
        self,
        observation: NDArray[Any],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], None]:
        """The action of the best episode at its observation nearest to this one.

        Args:
            observation: One, or a batch of them along the first axis.
            state: Not used, like the next two; as in Stable-Baselines3.
            episode_start: Not used.
            deterministic: Not used: the policy has no randomness.

        Returns:
            The action or the batch of actions, and None for the state.

        Raises:
            RuntimeError: No episode has been played yet.
        """
        if not self.best_ranks:
            raise RuntimeError("nothing has been found yet: call learn() before predict()")
        known = self._observations.reshape(len(self._observations), -1)
        asked = np.asarray(observation)
        batch = asked.reshape(-1, known.shape[1])
        nearest = np.abs(batch[:, None] - known[None]).sum(-1).argmin(-1)
        actions: NDArray[Any] = self._actions[nearest]
        return (actions[0] if asked.ndim < self._observations.ndim else actions), None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the best episode as a NumPy archive; what the search would try next is not kept."""
        if not self.best_ranks:
            raise RuntimeError("nothing has been found yet: call learn() before save()")
        summary = {"ranks": self.best_ranks, "return": self.best_return, "num_timesteps": self.num_timesteps}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            np.savez(
                file, observations=self._observations, actions=self._actions, summary=np.array(json.dumps(summary))
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: gym.Env[Any, Any] | None = None) -> Self:
        """Read what `save` wrote: an agent that predicts, and that learns anew if it is given an environment.

        Raises:
            ValueError: The file is not one of `save`'s.
        """
        agent = cls(env)
        try:
            with np.load(path, allow_pickle=False) as archive:
                summary = json.loads(str(archive["summary"]))
                agent._observations, agent._actions = archive["observations"], archive["actions"]
            agent.best_ranks = {str(name): int(rank) for name, rank in summary["ranks"].items()}
            agent.best_return = float(summary["return"])
            agent.num_timesteps = int(summary["num_timesteps"])
        except (ValueError, KeyError, TypeError, EOFError) as error:
            raise ValueError(f"{path} was not saved by {cls.__name__}: {error}") from error
        return agent

    def _environment(self) -> gym.Env[Any, Any]:
        if self.env is None:
            raise RuntimeError("the agent has no environment: give one to load() or set agent.env")
        return self.env

    def _play(
        self, env: gym.Env[Any, Any], ranks: Mapping[str, int], callback: Callback | None, bar: tqdm[Any]
    ) -> bool:
        """Play one configuration; False if the callback says stop."""
        unwrapped: Any = env.unwrapped
        observation, _ = env.reset(seed=self.seed if self.num_timesteps == 0 else None)
        observations, actions, total = [], [], 0.0
        for action in unwrapped.actions_for(ranks):
            observations.append(observation)
            actions.append(action)
            observation, reward, terminated, truncated, info = env.step(action)
            total += float(reward)
            self.num_timesteps += 1
            bar.update()
            if (terminated or truncated) and total > self.best_return:
                self.best_ranks, self.best_return = dict(info["ranks"]), total
                self._observations, self._actions = np.array(observations), np.array(actions)
            if callback is not None and callback(locals(), globals()) is False:
                return False
        return True
