"""The base class of searchers that propose whole configurations."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from agents.base import Callback, environment_of, require_one_environment
from shrinkml_env import SearchProblem
from shrinkml_env.files import open_arrays, write_atomic
from shrinkml_env.progress import progress

__all__ = ["EpisodeOutcome", "EpisodicSearch", "Proposals", "require_unchanged"]


class EpisodeOutcome(NamedTuple):
    """The outcome of the episode that played a proposed configuration, as the environment and its wrappers report it.

    Attributes:
        ranks: The ranks that were measured: the proposal, possibly changed by the constraint.
        reward: The episode's undiscounted return.
        wer: The WER, a fraction.
        error: The divergence from the original, nats a unit, if the reward depends on it; otherwise the WER.
        size_ratio: The size ratio, in (0, 1].
        feasible: Whether the constraint is met.
    """

    ranks: dict[str, int]
    reward: float
    wer: float
    error: float
    size_ratio: float
    feasible: bool


Proposals = Generator[Mapping[str, int], EpisodeOutcome, None]
"""A generator that yields configurations (layer name -> candidate rank) and receives the outcome of each."""


class EpisodicSearch(ABC):
    """The base class of searchers, which plays each proposed configuration as one episode and remembers the best.

    A subclass proposes configurations in `search`. The class implements the methods of Stable-Baselines3's
    `BaseAlgorithm` that searches use, by the Gymnasium API, ``env.unwrapped.problem`` and
    ``env.unwrapped.actions_for``. Its policy repeats the best episode so far.

    Attributes:
        env: The environment, or None after `load` without one.
        num_timesteps: Number of steps so far.
        best_ranks: The configuration of the best episode, layer name -> rank, a feasible one if there was any; empty
            before the first episode.
        best_return: The undiscounted return of the best episode.
    """

    def __init__(self, env: gym.Env[Any, Any] | None = None, seed: int | None = None) -> None:
        """Make a searcher; the search begins with `learn`.

        Args:
            env: A ShrinkML environment, wrapped or not.
            seed: Seed; the same seed gives the same search.

        Raises:
            TypeError: The argument is not an environment, or is a vector environment.
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
        self._outcome: EpisodeOutcome | None = None
        self._pending: Mapping[str, int] | None = None

    @abstractmethod
    def search(self, problem: SearchProblem) -> Proposals:
        """Yield the configurations to play, and receive the `EpisodeOutcome` of each.

        Args:
            problem: The environment's problem: layers, candidates, ``size(ranks)``. To measure a configuration, yield
                it instead of calling ``problem.evaluate``.
        """

    def learn(self, total_timesteps: int, callback: Callback | None = None, progress_bar: bool = False) -> Self:
        """Play whole episodes for at least `total_timesteps` steps, or until there are no more proposals.

        A later call continues the search. The environment's `BudgetExhausted` is passed on; the best episode is kept.

        Args:
            total_timesteps: Number of steps of this call; an episode has one for each layer.
            callback: Called after each step; if it returns False, learning ends.
            progress_bar: Whether to show a progress bar.

        Raises:
            TypeError: The callback is not a function.
            RuntimeError: The agent has no environment.
        """
        if callback is not None and not callable(callback):
            raise TypeError(
                f"callback must be a function of (locals, globals) that returns a bool, got {type(callback).__name__}; "
                "Stable-Baselines3's callback objects work with its own agents only"
            )
        env = environment_of(self)
        end = self.num_timesteps + total_timesteps
        with progress(total=total_timesteps, disable=not progress_bar, unit="step") as bar:
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
        """Return the action that the best episode took at its observation nearest to this one.

        Args:
            observation: One observation, or a batch of them along the first axis.
            state: Not used.
            episode_start: Not used.
            deterministic: Not used; the policy is deterministic.

        Returns:
            The action or the batch of actions, and None as the state.

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
        """Write the best episode as a NumPy archive; the state of the search is not saved.

        Raises:
            RuntimeError: No episode has been played yet.
        """
        if not self.best_ranks:
            raise RuntimeError("nothing has been found yet: call learn() before save()")
        summary = {
            "ranks": self.best_ranks,
            "return": self.best_return,
            "feasible": self._best_feasible,
            "num_timesteps": self.num_timesteps,
        }
        content = io.BytesIO()
        np.savez(content, observations=self._observations, actions=self._actions, summary=np.array(json.dumps(summary)))
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str], env: gym.Env[Any, Any] | None = None) -> Self:
        """Load an agent that `save` wrote; it can predict and, with an environment, begin a new search.

        Its settings are the defaults of the class: the file holds what was found, not how.

        Raises:
            ValueError: The file was not written by `save`.
        """
        agent = cls(env)
        try:
            with open_arrays(Path(path).read_bytes()) as archive:
                summary = json.loads(str(archive["summary"]))
                agent._observations, agent._actions = archive["observations"], archive["actions"]
            agent.best_ranks = {str(name): int(rank) for name, rank in summary["ranks"].items()}
            agent.best_return, agent._best_feasible = float(summary["return"]), bool(summary.get("feasible", False))
            agent.num_timesteps = int(summary["num_timesteps"])
        except (ValueError, KeyError, TypeError, OverflowError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} was not saved by {cls.__name__}: {error}") from error
        return agent

    def _next_proposal(self, env: gym.Env[Any, Any]) -> Mapping[str, int] | None:
        """Return the last proposal if it was not played to its end, or a new one; None if there are no more."""
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
        """Play one configuration; return False if the callback ended the search."""
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
            if truncated and not terminated:
                raise ValueError("a wrapper ends the episode before its last layer (truncated): leave it out")
            if terminated:
                ranks, feasible = dict(info["ranks"]), bool(info["feasible"])
                self._pending = None
                error = info[unwrapped.problem.signal]
                self._outcome = EpisodeOutcome(ranks, total, info["wer"], error, info["size_ratio"], feasible)
                if (feasible, total) > (self._best_feasible, self.best_return):
                    self.best_ranks, self.best_return, self._best_feasible = ranks, total, feasible
                    self._observations, self._actions = np.array(observations), np.array(actions)
            if callback is not None and callback(locals(), globals()) is False:
                return False
        return True


def require_unchanged(outcome: EpisodeOutcome, proposal: Mapping[str, int]) -> None:
    """Check that the constraint did not change a proposal, for searches that depend on it.

    Raises:
        ValueError: The constraint changed the proposal.
    """
    if outcome.ranks != dict(proposal):
        raise ValueError(
            "this search must know what it measures, but the constraint changed a proposal: use the constraint 'none' "
            "or 'check'"
        )


def _flat(observation: NDArray[Any] | Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return an observation, or a batch of them, as one array; the boxes of a dictionary are concatenated."""
    if isinstance(observation, Mapping):
        return np.concatenate([np.asarray(observation[name]) for name in sorted(observation)], axis=-1)
    return np.asarray(observation)
