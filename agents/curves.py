"""Curves: one number, the level, determines every layer's rank, and the search goes through the levels."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import gymnasium as gym

from agents.episodic import EpisodicSearch, Proposals
from agents.rules import require_reachable
from shrinkml_env import SearchProblem, kept_energy

__all__ = ["Curve", "EnergyCurve", "ProfileCurve", "UniformRank", "fractions"]


class Curve(EpisodicSearch):
    """A search through the levels of a curve, from coarse to fine (see `fractions`).

    Sizes rise with the levels. Any budget covers the whole range of levels. Levels whose configuration was proposed
    before are skipped; the search ends when no finer level is left. It is deterministic.
    """

    def search(self, problem: SearchProblem) -> Proposals:
        """Propose the configurations of the levels; see `EpisodicSearch.search`."""
        self._prepare(problem)
        tried: set[tuple[int, ...]] = set()
        for level in fractions(self._resolution(problem)):
            ranks = self._at(problem, level)
            if tuple(ranks.values()) not in tried:
                tried.add(tuple(ranks.values()))
                yield ranks

    def ranks_of_size(self, problem: SearchProblem, size_ratio: float) -> dict[str, int]:
        """Return the curve's largest configuration of at most a size; it takes no evaluation.

        Args:
            problem: The problem: layers and candidates.
            size_ratio: The largest size ratio, in (0, 1].

        Raises:
            ValueError: The smallest configuration is larger.
        """
        self._prepare(problem)
        # The size never falls as the level rises.
        lower, upper = 0.0, 1.0
        if problem.size(self._at(problem, upper)) <= size_ratio:
            return self._at(problem, upper)
        require_reachable(size_ratio, problem.size(self._at(problem, lower)), "model on this curve")
        for _ in range(40):  # the steps of two layers may be close together, but not as close as 2^-40
            middle = (lower + upper) / 2
            fits = problem.size(self._at(problem, middle)) <= size_ratio
            lower, upper = (middle, upper) if fits else (lower, middle)
        return self._at(problem, lower)

    def _prepare(self, problem: SearchProblem) -> None:
        """Compute what `_at` needs for a problem."""

    @abstractmethod
    def _at(self, problem: SearchProblem, level: float) -> dict[str, int]:
        """Return the configuration at a level in [0, 1]; it gets no smaller as the level rises."""

    @abstractmethod
    def _resolution(self, problem: SearchProblem) -> int:
        """Return the number of steps from 0 to 1 beyond which finer levels give no new configurations."""


class LayerCurve(Curve):
    """A curve on which each layer's rank depends only on the level and the layer."""

    def _at(self, problem: SearchProblem, level: float) -> dict[str, int]:
        """Return the configuration at a level in [0, 1]."""
        return problem.search_space.named([self._rank(problem, index, level) for index in range(len(problem.layers))])

    @abstractmethod
    def _rank(self, problem: SearchProblem, index: int, level: float) -> int:
        """Return the candidate of a layer at a level in [0, 1]."""

    def _resolution(self, problem: SearchProblem) -> int:
        """Return the number of steps, two for each rank up to the largest break-even rank."""
        return 2 * max(layer.break_even for layer in problem.layers)


class UniformRank(LayerCurve):
    """A curve with the same fraction of the break-even rank, at least rank 1, for every layer (nearest candidate)."""

    def _rank(self, problem: SearchProblem, index: int, level: float) -> int:
        wanted = max(1, round(level * problem.layers[index].break_even))
        return problem.search_space.nearest(index, wanted)


class EnergyCurve(LayerCurve):
    """A curve with the smallest candidate that keeps the same share of energy for every layer (`kept_energy`)."""

    def _prepare(self, problem: SearchProblem) -> None:
        values = problem.evaluator.singular_values
        energies = problem.search_space.tabulate(lambda layer, rank: kept_energy(layer, rank, values))
        # For each layer, the energies of its candidates below dense.
        self._energies = [list(of_layer.values())[:-1] for of_layer in energies]

    def _rank(self, problem: SearchProblem, index: int, level: float) -> int:
        return problem.candidates[index][bisect_left(self._energies[index], level)]

    def _resolution(self, problem: SearchProblem) -> int:
        """Return a number of steps that separates the energies of neighbouring candidates."""
        return 2**14


class ProfileCurve(LayerCurve):
    """A hand-crafted profile: the fraction of the break-even rank is multiplied by a factor for each layer.

    Args:
        env: The environment, see `EpisodicSearch`.
        profile: Pattern of layer names (``"encoder.*"``) -> factor. The first pattern that matches a layer counts; the
            factor is 1 if none does. If fraction times factor is above 1, the layer stays dense.
        seed: Seed of the environment; the search is deterministic.
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
