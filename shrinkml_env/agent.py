"""Agents, as a search sees them."""

from __future__ import annotations

import inspect
import os
import sys
from typing import Any, Protocol, Self, runtime_checkable

__all__ = ["Agent", "Learner", "is_algorithm", "takes_callback"]


@runtime_checkable
class Learner(Protocol):
    """An algorithm that plays an environment it was made with: all that a search needs."""

    def learn(self, total_timesteps: int) -> Any:
        """Take about so many steps; `BudgetExhausted`, which the environment raises, may pass through."""


@runtime_checkable
class Agent(Learner, Protocol):
    """The part of Stable-Baselines3's ``BaseAlgorithm`` that matters: a learner whose policy is played and kept."""

    def learn(self, total_timesteps: int, callback: Any = None) -> Any:
        """Take about so many steps; the callback may end it earlier."""

    def predict(self, observation: Any, deterministic: bool = False) -> tuple[Any, Any]:
        """Return the action at an observation, or those at a batch of them, and a state, mostly None."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what `load` reads."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""


def is_algorithm(agent: Any) -> bool:
    """Return whether an agent is one of Stable-Baselines3's algorithms, without importing them."""
    base = sys.modules.get("stable_baselines3.common.base_class")
    return base is not None and isinstance(agent, base.BaseAlgorithm)


def takes_callback(agent: Learner) -> bool:
    """Return whether ``agent.learn`` has an argument `callback`, or takes any."""
    parameters = inspect.signature(agent.learn).parameters.values()
    return any(it.name == "callback" or it.kind is it.VAR_KEYWORD for it in parameters)
