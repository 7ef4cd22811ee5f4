"""Curves: one number decides every layer's rank, and the search goes through the numbers."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import gymnasium as gym

from agents.episodic import EpisodicSearch, Proposals
from shrinkml_env import SearchProblem, kept_energy

__all__ = ["Curve", "EnergyCurve", "ProfileCurve", "UniformRank", "fractions"]


class Curve(EpisodicSearch):
    """Goes through a curve's levels from coarse to fine (see `fractions`), so that any budget covers all of it.

    Levels that lead to a configuration already tried are skipped; the search ends when no finer level is left.
    Nothing is random.
    """

    def search(self, problem: SearchProblem) -> Proposals:
        """Go through the levels."""
        self._prepare(problem)
        tried: set[tuple[int, ...]] = set()
        for level in fractions(self._resolution(problem)):
            ranks = self._at(problem, level)
            if tuple(ranks.values()) not in tried:
                tried.add(tuple(ranks.values()))
                yield ranks

    def ranks_of_size(self, problem: SearchProblem, size_ratio: float) -> dict[str, int]:
        """Return the curve's largest configuration of at most a size; this measures nothing.

        Args:
            problem: Holds the layers and their candidates.
            size_ratio: The share of the original's parameters, in (0, 1].

        Raises:
            ValueError: Even the smallest configuration is larger.
        """
        self._prepare(problem)
        # Ranks never fall as the level rises, so the size doesn't either.
        lower, upper = 0.0, 1.0
        if problem.size(self._at(problem, upper)) <= size_ratio:
            return self._at(problem, upper)
        smallest = problem.size(self._at(problem, lower))
        if smallest > size_ratio:
            raise ValueError(f"the smallest model on this curve has {smallest:.3f} of the original's size")
        for _ in range(40):  # Two layers' steps may lie close together, but not as close as 2^-40.
            middle = (lower + upper) / 2
            fits = problem.size(self._at(problem, middle)) <= size_ratio
            lower, upper = (middle, upper) if fits else (lower, middle)
        return self._at(problem, lower)

    def _prepare(self, problem: SearchProblem) -> None:
        """Compute all that `_at` needs to know of a problem."""

    @abstractmethod
    def _at(self, problem: SearchProblem, level: float) -> dict[str, int]:
        """Return the configuration at a level in [0, 1]; it does not get smaller as the level rises."""

    @abstractmethod
    def _resolution(self, problem: SearchProblem) -> int:
        """Return the number of steps from 0 to 1 that are fine enough."""


class _LayerCurve(Curve):
    """Decides the rank of each layer by itself."""

    def _at(self, problem: SearchProblem, level: float) -> dict[str, int]:
        """Return the configuration at a level in [0, 1]."""
        return problem.search_space.named([self._rank(problem, index, level) for index in range(len(problem.layers))])

    @abstractmethod
    def _rank(self, problem: SearchProblem, index: int, level: float) -> int:
        """Return the candidate of a layer at a level in [0, 1]."""

    def _resolution(self, problem: SearchProblem) -> int:
        """Return so many steps that no whole rank can hide between two neighbours, which are 1 / (2 r*) apart."""
        return 2 * max(layer.break_even for layer in problem.layers)


class UniformRank(_LayerCurve):
    """Gives every layer the candidate nearest to one fraction of its break-even rank, at least rank 1."""

    def _rank(self, problem: SearchProblem, index: int, level: float) -> int:
        wanted = max(1, round(level * problem.layers[index].break_even))
        return problem.search_space.nearest(index, wanted)


class EnergyCurve(_LayerCurve):
    """Gives every layer the smallest candidate that keeps one share of its spectral energy (`kept_energy`)."""

    def _prepare(self, problem: SearchProblem) -> None:
        values = problem.evaluator.singular_values
        energies = problem.search_space.tabulate(lambda layer, rank: kept_energy(layer, rank, values))
        # For each layer those of its candidates below dense.
        self._energies = [list(of_layer.values())[:-1] for of_layer in energies]

    def _rank(self, problem: SearchProblem, index: int, level: float) -> int:
        return problem.candidates[index][bisect_left(self._energies[index], level)]

    def _resolution(self, problem: SearchProblem) -> int:
        """Return steps as fine as the energies of neighbouring candidates may lie."""
        return 2**14


class ProfileCurve(_LayerCurve):
    """Gives every layer a multiple of one fraction of its break-even rank: what an expert draws by hand.

    Args:
        env: As in `EpisodicSearch`.
        profile: Pattern of layer names (``"encoder.*"``) -> factor; the first that matches counts, a layer that none
            matches has 1. At a fraction times factor above 1 the layer stays dense.
        seed: Nothing is random.
    """

    def __init__(
        self, env: gym.Env[Any, Any] | None = None, profile: Mapping[str, float] | None = None, seed: int | None = None
    ) -> None:
        super().__init__(env, seed)
        self.profile = dict(profile or {})

    def _rank(self, problem: SearchProblem, index: int, level: float) -> int:
        layer = problem.layers[index]
        factor = next((value for pattern, value in self.profile.items() if fnmatchcase(layer.name, pattern)), 1.0)
        if level * factor > 1:
            return layer.max_rank
        return problem.search_space.nearest(index, max(1, round(level * factor * layer.break_even)))


def fractions(resolution: int) -> Iterator[float]:
    """Yield 1, then 1/2, then 3/4 and 1/4, then 7/8, 5/8, 3/8, 1/8, ... down to steps of at most 1 / `resolution`."""
    yield 1.0
    steps = 1
    while steps < resolution:
        steps *= 2
        yield from (numerator / steps for numerator in range(steps - 1, 0, -2))
