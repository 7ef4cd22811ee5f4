"""The protocol of agents: what a search needs of them."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm  # optional

__all__ = ["Learner", "is_sb3_algorithm", "takes_callback"]


@runtime_checkable
class Learner(Protocol):
    """An algorithm that plays the environment it was made with: the least that a search needs."""

    def learn(self, total_timesteps: int) -> Any:
        """Take about this many steps. The `BudgetExhausted` that the environment raises need not be caught."""


def is_sb3_algorithm(agent: object) -> TypeGuard[BaseAlgorithm]:
    """Return whether an agent is one of Stable-Baselines3's algorithms, without importing them."""
    base = sys.modules.get("stable_baselines3.common.base_class")
    return base is not None and isinstance(agent, base.BaseAlgorithm)


def takes_callback(agent: Learner) -> bool:
    """Return whether ``agent.learn`` has an argument `callback` or arbitrary keyword arguments."""
    parameters = inspect.signature(agent.learn).parameters.values()
    return any(it.name == "callback" or it.kind is it.VAR_KEYWORD for it in parameters)
