"""Greedy search: always the layer whose cut hurts least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from agents.episodic import EpisodicSearch, Proposals, require_unchanged
from shrinkml_env.mdp.constraints import Budget

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

    def search(self, problem: Any) -> Proposals:
        """See `EpisodicSearch.search`."""
        here, played = {layer.name: layer.max_rank for layer in problem.layers}, 0
        while cuts := self._cuts(problem, here, played):
            worth = []
            for there in cuts:
                outcome = yield there
                require_unchanged(outcome, there)
                worth.append((outcome.error, outcome.size_ratio))
            played += len(cuts)
            here = cuts[worth.index(min(worth))]

    def _cuts(self, problem: Any, here: Mapping[str, int], played: int) -> list[dict[str, int]]:
        """What a round compares."""
        constraint, layers = problem.constraint, len(problem.layers)
        if not (isinstance(constraint, Budget) and constraint.resource == "size"):
            return self._saving(problem, here, layers / self.evaluations)
        left = problem.size(here) - constraint.budget
        # Where some layers can no longer save so much, a round costs less, and the next shares are smaller.
        share = left / max(1, (self.evaluations - played) // layers)
        while left > 0 and any(rank > ranks[0] for rank, ranks in zip(here.values(), problem.candidates, strict=True)):
            if cuts := self._saving(problem, here, share):
                return cuts
            share /= 2
        return []

    def _saving(self, problem: Any, here: Mapping[str, int], share: float) -> list[dict[str, int]]:
        """For each layer that can save the share, the configuration in which it does."""
        cuts = (self._cut(problem, here, index, share) for index in range(len(problem.layers)))
        return [cut for cut in cuts if cut is not None]

    @staticmethod
    def _cut(problem: Any, here: Mapping[str, int], index: int, share: float) -> dict[str, int] | None:
        """The largest candidate of one layer that saves the share; None if even the smallest does not."""
        name = problem.layers[index].name
        # Rounding must not ask for a little more than the share.
        target = problem.size(here) - share + 1e-9
        for rank in reversed(problem.candidates[index]):
            if rank < here[name] and problem.size({**here, name: rank}) <= target:
                return {**here, name: rank}
        return None
