"""The protocols of agents: the methods that a search calls."""

from __future__ import annotations

import inspect
import os
import sys
from typing import Any, Protocol, Self, runtime_checkable

__all__ = ["Agent", "Learner", "is_algorithm", "takes_callback"]


@runtime_checkable
class Learner(Protocol):
    """An algorithm that plays the environment it was made with: the least that a search needs."""

    def learn(self, total_timesteps: int) -> Any:
        """Take about this many steps. The `BudgetExhausted` that the environment raises need not be caught."""


@runtime_checkable
class Agent(Learner, Protocol):
    """A learner with a policy that can be played, saved and loaded: a part of Stable-Baselines3's ``BaseAlgorithm``."""

    def learn(self, total_timesteps: int, callback: Any = None) -> Any:
        """Take about this many steps; the callback may stop it earlier."""

    def predict(self, observation: Any, deterministic: bool = False) -> tuple[Any, Any]:
        """Return the action for an observation, or actions for a batch of them, and a recurrent state or None."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the agent to a file."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the agent that `save` wrote."""


def is_algorithm(agent: Any) -> bool:
    """Return whether an agent is one of Stable-Baselines3's algorithms, without importing them."""
    base = sys.modules.get("stable_baselines3.common.base_class")
    return base is not None and isinstance(agent, base.BaseAlgorithm)


def takes_callback(agent: Learner) -> bool:
    """Return whether ``agent.learn`` has an argument `callback` or arbitrary keyword arguments."""
    parameters = inspect.signature(agent.learn).parameters.values()
    return any(it.name == "callback" or it.kind is it.VAR_KEYWORD for it in parameters)
