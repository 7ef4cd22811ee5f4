"""The base of searchers that propose whole configurations."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from shrinkml_env import SearchProblem
from shrinkml_env.mdp.rewards import signal_of

__all__ = ["Callback", "EpisodicSearch", "Outcome", "Proposals", "require_one_environment", "require_unchanged"]

Callback = Callable[[dict[str, Any], dict[str, Any]], bool]
"""Stable-Baselines3's functional callback: called with (locals, globals) after each step; False ends `learn`."""


class Outcome(NamedTuple):
    """The outcome of a proposed configuration, as the environment and its wrappers show it.

    Attributes:
        ranks: The ranks that were measured: the proposal, or what the constraint made of it.
        reward: The episode's undiscounted return.
        wer: A fraction.
        error: The WER, or the divergence from the original where the reward depends on that.
        size_ratio: In (0, 1].
        feasible: Whether the constraint is met.
    """

    ranks: dict[str, int]
    reward: float
    wer: float
    error: float
    size_ratio: float
    feasible: bool


Proposals = Generator[Mapping[str, int], Outcome, None]
"""Yields configurations (layer name -> candidate rank), is sent the outcome of each, and ends when none is left."""


class EpisodicSearch(ABC):
    """Plays whole configurations, each as one episode, and remembers the best.

    A subclass says which, in `search`. It has the part of Stable-Baselines3's `BaseAlgorithm` that matters and sees
    only the Gymnasium API, besides ``env.unwrapped.problem`` and ``env.unwrapped.actions_for``. The policy is to repeat
    the best episode so far.

    Attributes:
        env: The environment, or None after `load` without one.
        num_timesteps: Steps taken so far.
        best_ranks: The configuration of the best episode, layer name -> rank, a feasible one if there was any; empty
            before the first.
        best_return: Its undiscounted return.
    """

    def __init__(self, env: gym.Env[Any, Any] | None = None, seed: int | None = None) -> None:
        """Begin nothing yet.

        Args:
            env: A ShrinkML environment, wrapped or not.
            seed: The same seed gives the same search.

        Raises:
            TypeError: It is something else, such as several environments in one.
        """
        require_one_environment(self, env)
        self.env = env
        self.seed = seed
        self.num_timesteps = 0
        self.best_ranks: dict[str, int] = {}
        self.best_return = -np.inf
        self._best_feasible = False
        self._observations: NDArray[Any] = np.empty(0)
        self._actions: NDArray[Any] = np.empty(0)
        self._proposals: Proposals | None = None
        self._outcome: Outcome | None = None
        self._pending: Mapping[str, int] | None = None

    @abstractmethod
    def search(self, problem: SearchProblem) -> Proposals:
        """Yield what to try next; the generator is sent what became of it.

        Args:
            problem: The environment's: layers, candidates, ``size(ranks)``. What is to be measured is yielded instead,
                and played.
        """

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
                ranks = self._next_proposal(env)
                if ranks is None or not self._play(env, ranks, callback, bar):
                    break
        return self

    def predict(
        self,
        observation: NDArray[Any] | Mapping[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], None]:
        """Return the action of the best episode at its observation nearest to this one.

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
        asked = _flat(observation)
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
            with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as archive:
                summary = json.loads(str(archive["summary"]))
                agent._observations, agent._actions = archive["observations"], archive["actions"]
            agent.best_ranks = {str(name): int(rank) for name, rank in summary["ranks"].items()}
            agent.best_return = float(summary["return"])
            agent.num_timesteps = int(summary["num_timesteps"])
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} was not saved by {cls.__name__}: {error}") from error
        return agent

    def _environment(self) -> gym.Env[Any, Any]:
        if self.env is None:
            raise RuntimeError("the agent has no environment: give one to load() or set agent.env")
        return self.env

    def _next_proposal(self, env: gym.Env[Any, Any]) -> Mapping[str, int] | None:
        """Return what was proposed last and not played to its end, or something new; None if nothing is left to try."""
        unwrapped: Any = env.unwrapped
        try:
            if self._proposals is None:
                self._proposals = self.search(unwrapped.problem)
                self._pending = next(self._proposals)
            elif self._outcome is not None:
                outcome, self._outcome = self._outcome, None
                self._pending = self._proposals.send(outcome)
        except StopIteration:
            self._pending = None
        return self._pending

    def _play(
        self, env: gym.Env[Any, Any], ranks: Mapping[str, int], callback: Callback | None, bar: tqdm[Any]
    ) -> bool:
        """Play one configuration; False if the callback says stop."""
        unwrapped: Any = env.unwrapped
        observation, _ = env.reset(seed=self.seed if self.num_timesteps == 0 else None)
        observations, actions, total = [], [], 0.0
        for action in unwrapped.actions_for(ranks):
            observations.append(_flat(observation))
            actions.append(action)
            observation, reward, terminated, truncated, info = env.step(action)
            total += float(reward)
            self.num_timesteps += 1
            bar.update()
            if terminated or truncated:
                ranks, feasible = dict(info["ranks"]), bool(info["feasible"])
                self._pending = None
                error = info[signal_of(unwrapped.problem.reward_function)]
                self._outcome = Outcome(ranks, total, info["wer"], error, info["size_ratio"], feasible)
                if (feasible, total) > (self._best_feasible, self.best_return):
                    self.best_ranks, self.best_return, self._best_feasible = ranks, total, feasible
                    self._observations, self._actions = np.array(observations), np.array(actions)
            if callback is not None and callback(locals(), globals()) is False:
                return False
        return True


def require_one_environment(agent: object, env: Any) -> None:
    """Refuse other environments, for agents that play one episode at a time.

    Raises:
        TypeError: It is something else, such as several environments in one.
    """
    if env is not None and not isinstance(env, gym.Env):
        raise TypeError(
            f"{type(agent).__name__} plays one environment, got a {type(env).__name__}: for several (num_envs) take an "
            "agent of Stable-Baselines3"
        )


def require_unchanged(outcome: Outcome, proposal: Mapping[str, int]) -> None:
    """Refuse a changed proposal, for searches that reason about what they proposed.

    Raises:
        ValueError: The constraint has made something else of it.
    """
    if outcome.ranks != dict(proposal):
        raise ValueError(
            "this search must know what it measures, but the constraint changed a proposal: use the constraint 'none' "
            "or 'check'"
        )


def _flat(observation: NDArray[Any] | Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Make one array of an observation or a batch of them; the boxes of a dictionary one behind the other."""
    if isinstance(observation, Mapping):
        return np.concatenate([np.asarray(observation[name]) for name in sorted(observation)], axis=-1)
    return np.asarray(observation)
