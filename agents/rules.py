"""Rules, which determine the ranks of a model of a given size without a search."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from shrinkml_env import SearchProblem

__all__ = ["RankRule"]


@runtime_checkable
class RankRule(Protocol):
    """An agent that can return the ranks of a model of a given size without a search, such as `UniformRank`."""

    def ranks_of_size(self, problem: SearchProblem, size_ratio: float) -> dict[str, int]:
        """Return the best of the rule's configurations of at most a size.

        Args:
            problem: The problem: layers and candidates, and measurements for rules that need them.
            size_ratio: The largest size ratio, in (0, 1].

        Raises:
            ValueError: The smallest configuration is larger.
        """
