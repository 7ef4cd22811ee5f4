"""Rules say without a search which ranks a model of a size gets."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from shrinkml_env import SearchProblem

__all__ = ["Rule"]


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
