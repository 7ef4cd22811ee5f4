"""Potential-based reward shaping, which leaves the best policy unchanged: one class a potential, selected by name.

A step from state s to s' earns an additional potential(s') - potential(s). The potential is 0 at the start and at the
end, so that the additional rewards of an undiscounted episode sum to 0 and every policy keeps its return (Ng, Harada
and Russell 1999, "Policy invariance under reward transformations"): only the assignment of credit to decisions changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from shrinkml_env.checks import number
from shrinkml_env.mdp.problem import SearchProblem

__all__ = ["POTENTIALS", "ActivationErrorPotential", "NoPotential", "Potential"]


class Potential(ABC):
    """A function of the decisions so far.

    Attributes:
        problem: The search problem: layers, candidates and evaluator.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self.problem = problem

    def __call__(self, ranks: tuple[int, ...]) -> float:
        """Return the potential after these ranks of the first layers; 0 at the start and at the end."""
        return self._value(ranks) if 0 < len(ranks) < len(self.problem.layers) else 0.0

    @abstractmethod
    def _value(self, ranks: tuple[int, ...]) -> float:
        """Return the potential between the first and the last decision."""


class NoPotential(Potential):
    """A potential of 0: no intermediate rewards."""

    def _value(self, ranks: tuple[int, ...]) -> float:
        return 0.0


class ActivationErrorPotential(Potential):
    """-weight * the relative error of the activations after the layers decided so far; the error is clipped to 1.

    It is measured on a few proxy utterances (`shrinkml_env.evaluation.ActivationError`), which takes time in every
    step but counts as no evaluation.

    Attributes:
        weight: The largest absolute potential, > 0.

    Raises:
        ValueError: The weight is out of range.
    """

    def __init__(self, problem: SearchProblem, weight: float = 0.1) -> None:
        number("shaping 'activation_error': weight", weight, above=0)
        super().__init__(problem)
        self.weight = weight

    def _value(self, ranks: tuple[int, ...]) -> float:
        error = self.problem.evaluator.activation_error(self.problem.search_space.named(ranks))
        return -self.weight * min(1.0, error)


POTENTIALS: dict[str, Callable[..., Potential]] = {
    "none": NoPotential,
    "activation_error": ActivationErrorPotential,
}
"""Name -> class of (problem, options)."""
