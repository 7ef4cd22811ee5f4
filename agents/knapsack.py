"""Additive sensitivities: measure every layer alone, then solve for the best sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from agents.episodic import EpisodicSearch, Proposals, require_unchanged

__all__ = ["KnapsackSearch"]

_HALVINGS = 13  # of the range of sizes: steps of 0.012 %


class KnapsackSearch(EpisodicSearch):
    """Takes the WER that a configuration loses for the sum of what its layers lose alone.

    First it measures each layer at some of its candidates, all others dense. What lies between is interpolated. Then,
    for a range of sizes from coarse to fine, it finds the configuration with the least sum among those of at most that
    size, exactly, as a multiple-choice knapsack (an integer linear program, solved by HiGHS), and tries it.

    Args:
        env: As in `EpisodicSearch`.
        points: Candidates below dense that are measured of each layer.
        sizes: Range of the size ratios, as far as the candidates allow them. Below 1 the upper end comes first.
        seed: Nothing is random.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | None = None,
        points: int = 6,
        sizes: Sequence[float] = (0.0, 1.0),
        seed: int | None = None,
    ) -> None:
        if points < 1:
            raise ValueError(f"at least one candidate of each layer must be measured, got points={points!r}")
        if len(sizes) != 2 or not 0 <= sizes[0] < sizes[1] <= 1:
            raise ValueError(f"sizes must be a range within [0, 1], got {list(sizes)}")
        super().__init__(env, seed)
        self.points = points
        self.sizes = sizes

    def search(self, problem: Any) -> Proposals:
        """See `EpisodicSearch.search`.

        Raises:
            ValueError: Even the smallest configuration is larger than the range of sizes.
        """
        smallest, (low, high) = self._smallest(problem), self.sizes
        if smallest > high:
            raise ValueError(f"the smallest configuration has {smallest:.3f} of the original's size, not {high:g}")
        measured: dict[tuple[int, int], float] = {}
        for index, place, alone in self._single(problem):
            outcome = yield alone
            require_unchanged(outcome, alone)
            measured[index, place] = outcome.error
        losses, sizes = self._losses(problem, measured), self._sizes(problem)
        low = max(low, smallest)
        yield from (self._ranks(problem, choice) for choice in self._front(losses, sizes, low, high))

    @classmethod
    def _front(
        cls, losses: list[NDArray[np.float64]], sizes: list[NDArray[np.float64]], low: float, high: float
    ) -> Iterator[tuple[int, ...]]:
        """The choices for a range of sizes, each once: its upper end if below 1, then from coarse to fine."""
        ends = {0.0: cls._solve(losses, sizes, low), 1.0: cls._solve(losses, sizes, high)}
        tried = set()
        if high < 1:
            tried.add(ends[1.0])
            yield ends[1.0]
        intervals = [(0.0, 1.0)]
        for _ in range(_HALVINGS):
            halves = []
            for left, right in intervals:
                middle = (left + right) / 2
                # What is best for two sizes is best for any between them.
                choice = ends[left]
                if choice != ends[right]:
                    choice = cls._solve(losses, sizes, low + (high - low) * middle)
                    halves += [(left, middle), (middle, right)]
                ends[middle] = choice
                if choice not in tried:
                    tried.add(choice)
                    yield choice
            intervals = halves

    def ranks_of_size(self, problem: Any, size_ratio: float) -> dict[str, int]:
        """The configuration with the least sum of losses of at most a size; measures single layers alone.

        Args:
            problem: A `SearchProblem`.
            size_ratio: In (0, 1].

        Raises:
            ValueError: Even the smallest configuration is larger.
        """
        smallest = self._smallest(problem)
        if smallest > size_ratio:
            raise ValueError(f"the smallest configuration has {smallest:.3f} of the original's size")
        measured = {
            (index, place): problem.error(problem.evaluate(ranks)) for index, place, ranks in self._single(problem)
        }
        return self._ranks(problem, self._solve(self._losses(problem, measured), self._sizes(problem), size_ratio))

    @staticmethod
    def _smallest(problem: Any) -> float:
        """The size ratio with every layer at its smallest candidate."""
        ranks = {layer.name: ranks[0] for layer, ranks in zip(problem.layers, problem.candidates, strict=True)}
        return float(problem.size(ranks))

    def _places(self, count: int) -> list[int]:
        """Which of so many candidates below dense are measured."""
        return [int(place) for place in np.unique(np.linspace(0, count - 1, self.points).round())]

    def _single(self, problem: Any) -> Iterator[tuple[int, int, dict[str, int]]]:
        """Layer, place among its candidates, and the configuration in which it alone is not dense."""
        dense = {layer.name: layer.max_rank for layer in problem.layers}
        for index, (layer, ranks) in enumerate(zip(problem.layers, problem.candidates, strict=True)):
            for place in self._places(len(ranks) - 1):
                yield index, place, {**dense, layer.name: ranks[place]}

    def _losses(self, problem: Any, measured: Mapping[tuple[int, int], float]) -> list[NDArray[np.float64]]:
        """For each layer the errors that each candidate adds; dense adds none."""
        losses, original = [], problem.error(problem.baseline)
        for index, ranks in enumerate(problem.candidates):
            places = self._places(len(ranks) - 1)
            known = [max(0.0, measured[index, place] - original) for place in places]
            losses.append(np.interp(np.arange(len(ranks)), [*places, len(ranks) - 1], [*known, 0.0]))
        return losses

    @staticmethod
    def _sizes(problem: Any) -> list[NDArray[np.float64]]:
        return [
            np.array([problem.size({layer.name: rank}) for rank in ranks])
            for layer, ranks in zip(problem.layers, problem.candidates, strict=True)
        ]

    @staticmethod
    def _ranks(problem: Any, choice: tuple[int, ...]) -> dict[str, int]:
        return {
            layer.name: ranks[place]
            for layer, ranks, place in zip(problem.layers, problem.candidates, choice, strict=True)
        }

    @staticmethod
    def _solve(losses: list[NDArray[np.float64]], sizes: list[NDArray[np.float64]], limit: float) -> tuple[int, ...]:
        """One candidate of each layer, with the least sum of losses among those of at most this size ratio."""
        owner = np.repeat(np.arange(len(losses)), [len(loss) for loss in losses])
        one_each = (owner == np.arange(len(losses))[:, None]).astype(float)
        saved = np.concatenate([1.0 - size for size in sizes])
        solution = milp(
            # Among equal losses the smaller model.
            np.concatenate(losses) - 1e-6 * saved,
            integrality=np.ones(len(owner)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0},
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(saved, 1.0 - limit, np.inf)],
        )
        chosen = np.flatnonzero(solution.x > 0.5)
        starts = np.searchsorted(owner, np.arange(len(losses)))
        return tuple(int(place) for place in chosen - starts)
