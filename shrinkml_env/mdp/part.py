"""What the parts of an environment have in common."""

from __future__ import annotations

import copy
from abc import ABC
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from shrinkml_env.mdp.problem import SearchProblem

__all__ = ["Part"]


class Part(ABC):
    """Configured by its constructor and bound to a problem later, so that one object may serve several environments.

    Attributes:
        problem: What is searched; set by `bind`.
    """

    problem: SearchProblem

    def bind(self, problem: SearchProblem) -> Self:
        """A copy for one problem.

        Raises:
            ValueError: The part does not go with this problem.
        """
        bound = copy.copy(self)
        bound.problem = problem
        bound._prepare()
        return bound

    def _prepare(self) -> None:  # noqa: B027 - not every part has something to prepare
        """Compute from `problem` all that no decision changes."""
