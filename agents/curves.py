"""Hand-crafted curves: one number decides every layer's rank, and the search goes through the numbers."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import gymnasium as gym

from agents.episodic import EpisodicSearch, Proposals
from shrinkml_env import kept_energy

__all__ = ["EnergyCurve", "ProfileCurve", "UniformRank", "fractions"]


class _Curve(EpisodicSearch):
    """Goes through a curve's levels from coarse to fine (see `fractions`), so that any budget covers all of it.

    Levels that lead to a configuration already tried are skipped; the search ends when no finer level is left.
    Nothing is random.
    """

    def search(self, problem: Any) -> Proposals:
        """See `EpisodicSearch.search`."""
        self._prepare(problem)
        tried: set[tuple[int, ...]] = set()
        for level in fractions(self._resolution(problem)):
            ranks = {layer.name: self._rank(problem, index, level) for index, layer in enumerate(problem.layers)}
            if tuple(ranks.values()) not in tried:
                tried.add(tuple(ranks.values()))
                yield ranks

    def ranks_of_size(self, problem: Any, size_ratio: float) -> dict[str, int]:
        """The curve's largest configuration of at most a size; measures nothing.

        Args:
            problem: A `SearchProblem`.
            size_ratio: In (0, 1].

        Raises:
            ValueError: Even the smallest configuration is larger.
        """

        def at(level: float) -> dict[str, int]:
            return {layer.name: self._rank(problem, index, level) for index, layer in enumerate(problem.layers)}

        self._prepare(problem)
        # Ranks never fall as the level rises, so the size doesn't either.
        lower, upper = 0.0, 1.0
        if problem.size(at(upper)) <= size_ratio:
            return at(upper)
        if problem.size(at(lower)) > size_ratio:
            raise ValueError(
                f"the smallest model on this curve has {problem.size(at(lower)):.3f} of the original's size"
            )
        for _ in range(40):  # Two layers' steps may lie close together, but not as close as 2^-40.
            middle = (lower + upper) / 2
            lower, upper = (middle, upper) if problem.size(at(middle)) <= size_ratio else (lower, middle)
        return at(lower)

    def _prepare(self, problem: Any) -> None:
        """What `_rank` needs to know of a problem."""

    @abstractmethod
    def _rank(self, problem: Any, index: int, level: float) -> int:
        """The candidate of a layer at a level in (0, 1]."""

    def _resolution(self, problem: Any) -> int:
        """Between two neighbours on a grid of step 1 / (2 r*) no whole rank can hide."""
        return 2 * max(int(layer.break_even) for layer in problem.layers)


class UniformRank(_Curve):
    """Gives every layer the candidate nearest to one fraction of its break-even rank, at least rank 1."""

    def _rank(self, problem: Any, index: int, level: float) -> int:
        wanted = max(1, round(level * problem.layers[index].break_even))
        return int(problem.search_space.nearest(index, wanted))


class EnergyCurve(_Curve):
    """Gives every layer the smallest candidate that keeps one share of its spectral energy (`kept_energy`)."""

    def _prepare(self, problem: Any) -> None:
        values = problem.evaluator.singular_values
        self._energies = [
            [kept_energy(layer, rank, values) for rank in ranks[:-1]]
            for layer, ranks in zip(problem.layers, problem.candidates, strict=True)
        ]

    def _rank(self, problem: Any, index: int, level: float) -> int:
        return int(problem.candidates[index][bisect_left(self._energies[index], level)])

    def _resolution(self, problem: Any) -> int:
        """As fine as the energies of neighbouring candidates may lie."""
        return 2**14


class ProfileCurve(_Curve):
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

    def _rank(self, problem: Any, index: int, level: float) -> int:
        layer = problem.layers[index]
        factor = next((value for pattern, value in self.profile.items() if fnmatchcase(layer.name, pattern)), 1.0)
        if level * factor > 1:
            return int(layer.max_rank)
        return int(problem.search_space.nearest(index, max(1, round(level * factor * layer.break_even))))


def fractions(resolution: int) -> Iterator[float]:
    """1, then 1/2, then 3/4 and 1/4, then 7/8, 5/8, 3/8, 1/8, ... down to steps of at most 1 / `resolution`."""
    yield 1.0
    steps = 1
    while steps < resolution:
        steps *= 2
        yield from (numerator / steps for numerator in range(steps - 1, 0, -2))
