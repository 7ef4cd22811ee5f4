"""Additive sensitivities: measure every layer alone, then minimise the sum of losses by integer programming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from agents.episodic import EpisodicSearch, Proposals, require_unchanged
from agents.rules import require_reachable
from shrinkml_env import SearchProblem
from shrinkml_env.checks import whole_number

__all__ = ["KnapsackSearch"]

_HALVINGS = 13
"""The number of times that the range of sizes is halved, down to steps of 0.012 %."""


class KnapsackSearch(EpisodicSearch):
    """A search that assumes that the loss of a configuration is the sum of its layers' losses.

    First it measures each layer at some of its candidates, with all others dense, and interpolates the losses at the
    other candidates. Then it goes through a range of sizes, from coarse to fine. For each size it finds the
    configuration of at most this size with the least sum of losses, exactly, as a multiple-choice knapsack problem (an
    integer linear program, solved by HiGHS), and proposes it.

    Args:
        env: The environment, see `EpisodicSearch`.
        points: Number of candidates below dense to measure for each layer, at least 1.
        sizes: Range of the size ratios, (low, high) in [0, 1]. If high is below 1, it is solved for first.
        seed: Seed of the environment; the search is deterministic.

    Raises:
        ValueError: `points` is not a whole number of at least 1, or `sizes` is not such a range.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | None = None,
        points: int = 6,
        sizes: Sequence[float] = (0.0, 1.0),
        seed: int | None = None,
    ) -> None:
        points = whole_number("points", points, least=1)
        if len(sizes) != 2 or not 0 <= sizes[0] < sizes[1] <= 1:
            raise ValueError(f"sizes must be a range within [0, 1], got {list(sizes)}")
        super().__init__(env, seed)
        self.points = points
        self.sizes = sizes

    def search(self, problem: SearchProblem) -> Proposals:
        """Propose single layers, then the solutions for sizes; see `EpisodicSearch.search`.

        Raises:
            ValueError: The smallest configuration is larger than the range of sizes.
        """
        smallest, (low, high) = problem.size(problem.search_space.smallest), self.sizes
        if smallest > high:
            raise ValueError(f"the smallest configuration has {smallest:.3f} of the original's size, not {high:g}")
        measured: dict[tuple[int, int], float] = {}
        for index, place in self._single(problem):
            alone = self._alone(problem, index, place)
            outcome = yield alone
            require_unchanged(outcome, alone)
            measured[index, place] = outcome.error
        losses, sizes = self._losses(problem, measured), self._sizes(problem)
        low = max(low, smallest)
        for choice in self._front(losses, sizes, low, high):
            yield problem.search_space.ranks(choice)

    @classmethod
    def _front(
        cls, losses: list[NDArray[np.float64]], sizes: list[NDArray[np.float64]], low: float, high: float
    ) -> Iterator[tuple[int, ...]]:
        """Yield the solutions for a range of sizes, each once: the upper end if below 1, then from coarse to fine."""
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
                # The solution of two sizes is the solution of any size between them.
                choice = ends[left]
                if choice != ends[right]:
                    choice = cls._solve(losses, sizes, low + (high - low) * middle)
                    halves += [(left, middle), (middle, right)]
                ends[middle] = choice
                if choice not in tried:
                    tried.add(choice)
                    yield choice
            intervals = halves

    def ranks_of_size(self, problem: SearchProblem, size_ratio: float) -> dict[str, int]:
        """Return the configuration of at most a size with the least sum of losses, after measuring single layers.

        Args:
            problem: The problem, which measures.
            size_ratio: The largest size ratio, in (0, 1].

        Raises:
            ValueError: The smallest configuration is larger.
        """
        require_reachable(size_ratio, problem.size(problem.search_space.smallest), "configuration")
        measured = {
            (index, place): problem.error(problem.evaluate(self._alone(problem, index, place)))
            for index, place in self._single(problem)
        }
        choice = self._solve(self._losses(problem, measured), self._sizes(problem), size_ratio)
        return problem.search_space.ranks(choice)

    def _places(self, count: int) -> list[int]:
        """Return the indices of the candidates to measure, given the number of candidates below dense."""
        return [int(place) for place in np.unique(np.linspace(0, count - 1, self.points).round())]

    def _single(self, problem: SearchProblem) -> Iterator[tuple[int, int]]:
        """Yield (index of a layer, index of its candidate) for each measurement of a single layer."""
        for index, count in enumerate(problem.search_space.counts):
            for place in self._places(count - 1):
                yield index, place

    @staticmethod
    def _alone(problem: SearchProblem, index: int, place: int) -> dict[str, int]:
        """Return the configuration with one layer at a candidate and all others dense."""
        return {**problem.search_space.dense, problem.layers[index].name: problem.candidates[index][place]}

    def _losses(self, problem: SearchProblem, measured: Mapping[tuple[int, int], float]) -> list[NDArray[np.float64]]:
        """Return, for each layer, the loss of each candidate, (candidates,); that of dense is 0."""
        losses, original = [], problem.error(problem.baseline)
        for index, count in enumerate(problem.search_space.counts):
            places = self._places(count - 1)
            known = [max(0.0, measured[index, place] - original) for place in places]
            losses.append(np.interp(np.arange(count), [*places, count - 1], [*known, 0.0]))
        return losses

    @staticmethod
    def _sizes(problem: SearchProblem) -> list[NDArray[np.float64]]:
        """Return, for each layer, the size ratios with each of its candidates and all others dense, (candidates,)."""
        alone = problem.search_space.tabulate(lambda layer, rank: problem.size({layer.name: rank}))
        return [np.array(list(sizes.values())) for sizes in alone]

    @staticmethod
    def _solve(losses: list[NDArray[np.float64]], sizes: list[NDArray[np.float64]], limit: float) -> tuple[int, ...]:
        """Return a candidate's index for each layer: the least sum of losses at a size ratio of at most `limit`.

        The smallest configuration is at most as large as `limit`.
        """
        owner = np.repeat(np.arange(len(losses)), [len(loss) for loss in losses])
        one_each = (owner == np.arange(len(losses))[:, None]).astype(float)
        saved = np.concatenate([1.0 - size for size in sizes])
        starts = np.searchsorted(owner, np.arange(len(losses)))
        asked = limit
        while True:
            solution = milp(
                # The second term prefers the smaller model among equal losses.
                np.concatenate(losses) - 1e-6 * saved,
                integrality=np.ones(len(owner)),
                bounds=Bounds(0, 1),
                options={"mip_rel_gap": 0.0},
                constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(saved, 1.0 - asked, np.inf)],
            )
            if solution.x is None:
                return (0,) * len(losses)
            chosen = np.flatnonzero(solution.x > 0.5)
            if 1.0 - saved[chosen].sum() <= limit + 1e-12:
                return tuple(int(place) for place in chosen - starts)
            # The solver lets a constraint be violated by a millionth, which is several parameters of a large model.
            asked -= 1e-6
