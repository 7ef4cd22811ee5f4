"""Rules, which determine the ranks of a model of a given size without a search."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from shrinkml_env import SearchProblem

__all__ = ["RankRule", "require_reachable"]


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


def require_reachable(size_ratio: float, smallest: float, what: str) -> None:
    """Check that a rule has a configuration of at most a size.

    Args:
        size_ratio: The largest size ratio.
        smallest: The size ratio of the rule's smallest configuration.
        what: What the error calls this configuration: ``"model on this curve"``.

    Raises:
        ValueError: The smallest configuration is larger.
    """
    if smallest > size_ratio:
        # Rounded up, so that what is advised is enough.
        least = math.ceil(1000 * smallest) / 1000
        raise ValueError(
            f"size={size_ratio:g} is out of reach: the smallest {what} has {least:.3f} of the original's size; give at "
            "least that"
        )
