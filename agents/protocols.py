"""Protocols say what is asked of an agent and of a rule."""

from __future__ import annotations

import os
from typing import Any, Protocol, runtime_checkable

from shrinkml_env import SearchProblem

__all__ = ["Agent", "Rule"]


class Agent(Protocol):
    """The part of Stable-Baselines3's ``BaseAlgorithm`` that matters; any class that has it is an agent.

    It is made with ``env=`` and options of its own. A class method ``load(path, env)`` reads what `save` wrote.
    """

    def learn(self, total_timesteps: int) -> Any:
        """Play for about so many steps of the environment, which may end it by `shrinkml_env.BudgetExhausted`."""

    def predict(self, observation: Any, *, deterministic: bool = ...) -> tuple[Any, Any]:
        """Return the action of an observation or of a batch of them, and the agent's state."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what has been learned."""


@runtime_checkable
class Rule(Protocol):
    """An agent that can say which ranks it gives a model of a size, such as `UniformRank`."""

    def ranks_of_size(self, problem: SearchProblem, size_ratio: float) -> dict[str, int]:
        """Return the best of the rule's configurations of at most a size.

        Args:
            problem: Holds the layers and their candidates, and measures for a rule that needs it.
            size_ratio: The largest share of the original's parameters, in (0, 1].

        Raises:
            ValueError: Even the smallest configuration is larger.
        """
