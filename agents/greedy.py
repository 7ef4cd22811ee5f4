"""Greedy search: always the layer whose cut hurts least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from agents.episodic import EpisodicSearch, Proposals, require_unchanged
from shrinkml_env import SearchProblem

__all__ = ["GreedySearch"]


class GreedySearch(EpisodicSearch):
    """From the original downwards: each round must save a given share of the model (Yang et al. 2018, NetAdapt).

    Every layer in turn is cut just so far that it alone saves the round's share; the cut that leaves the fewest errors
    is kept, of equal ones the smallest model. A round costs as many evaluations as there are layers that can still save
    so much; the search ends when there is none.

    Args:
        env: As in `EpisodicSearch`.
        evaluations: How many it takes to come down to the size that a constraint allows, or else to use the model up:
            of L layers each round saves the share L / evaluations of the parameters that there are to save.
        seed: Nothing is random.
    """

    def __init__(self, env: gym.Env[Any, Any] | None = None, evaluations: int = 350, seed: int | None = None) -> None:
        if evaluations < 1:
            raise ValueError(f"at least one evaluation must be spent, got evaluations={evaluations!r}")
        super().__init__(env, seed)
        self.evaluations = evaluations

    def search(self, problem: SearchProblem) -> Proposals:
        """Go down round by round."""
        here, played = problem.search_space.dense, 0
        while cuts := self._cuts(problem, here, played):
            worth = []
            for there in cuts:
                outcome = yield there
                require_unchanged(outcome, there)
                worth.append((outcome.error, outcome.size_ratio))
            played += len(cuts)
            here = cuts[worth.index(min(worth))]

    def _cuts(self, problem: SearchProblem, here: dict[str, int], played: int) -> list[dict[str, int]]:
        """Return the configurations that a round compares."""
        layers = len(problem.layers)
        if problem.size_limit is None:
            return self._saving(problem, here, layers / self.evaluations)
        left = problem.size(here) - problem.size_limit
        # Where some layers can no longer save so much, a round costs less, and the next shares are smaller.
        share = left / max(1, (self.evaluations - played) // layers)
        while left > 0 and here != problem.search_space.smallest:
            if cuts := self._saving(problem, here, share):
                return cuts
            share /= 2
        return []

    def _saving(self, problem: SearchProblem, here: Mapping[str, int], share: float) -> list[dict[str, int]]:
        """Return, for each layer that can save the share, the configuration in which it does."""
        cuts = (self._cut(problem, here, index, share) for index in range(len(problem.layers)))
        return [cut for cut in cuts if cut is not None]

    @staticmethod
    def _cut(problem: SearchProblem, here: Mapping[str, int], index: int, share: float) -> dict[str, int] | None:
        """Cut one layer to its largest candidate that saves the share; None if even the smallest does not."""
        name = problem.layers[index].name
        # Rounding must not ask for a little more than the share.
        target = problem.size(here) - share + 1e-9
        for rank in reversed(problem.candidates[index]):
            if rank < here[name] and problem.size({**here, name: rank}) <= target:
                return {**here, name: rank}
        return None
