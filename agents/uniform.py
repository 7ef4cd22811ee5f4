"""The same rank fraction for every layer: the hand-crafted baseline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym

from agents.episodic import EpisodicSearch
from shrinkml_env.search_space import uniform_ranks

__all__ = ["UniformRank", "fractions"]


class UniformRank(EpisodicSearch):
    """Gives every layer the candidate nearest to one fraction of its break-even rank.

    The fractions go from coarse to fine (see `fractions`), so that the whole range is covered as evenly as the budget
    allows. Fractions that lead to a configuration already tried are skipped; the search ends when none is left.
    """

    def __init__(self, env: gym.Env[Any, Any] | None, seed: int | None = None) -> None:
        """See `EpisodicSearch`; nothing is random here."""
        super().__init__(env, seed)
        self._tried: set[tuple[int, ...]] = set()
        self._fractions: Iterator[float] | None = None

    def propose(self) -> dict[str, int] | None:
        """The next fraction's configuration; None when a finer resolution would change no rank."""
        problem: Any = self._environment().unwrapped.problem  # type: ignore[attr-defined]
        if self._fractions is None:
            # Between two neighbours on a grid of step 1 / (2 r*) no whole rank can hide.
            self._fractions = fractions(2 * max(layer.break_even for layer in problem.layers))
        for fraction in self._fractions:
            uniform = uniform_ranks(problem.layers, fraction).values()
            ranks = tuple(problem.search_space.nearest(index, rank) for index, rank in enumerate(uniform))
            if ranks not in self._tried:
                self._tried.add(ranks)
                return {layer.name: rank for layer, rank in zip(problem.layers, ranks, strict=True)}
        return None


def fractions(resolution: int) -> Iterator[float]:
    """1, then 1/2, then 3/4 and 1/4, then 7/8, 5/8, 3/8, 1/8, ... down to steps of at most 1 / `resolution`."""
    yield 1.0
    steps = 1
    while steps < resolution:
        steps *= 2
        yield from (numerator / steps for numerator in range(steps - 1, 0, -2))
