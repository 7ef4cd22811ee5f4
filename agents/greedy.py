"""Greedy search: always the layer whose cut hurts least."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from agents.episodic import EpisodicSearch, Proposals, require_unchanged
from shrinkml_env.constraints import Budget

__all__ = ["GreedySearch"]


class GreedySearch(EpisodicSearch):
    """From the original downwards: each round must save a given share of the model (Yang et al. 2018, NetAdapt).

    Every layer in turn is cut just so far that it alone saves the round's share; the cut that leaves the fewest errors
    is kept, of equal ones the smallest model. A round costs as many evaluations as there are layers that can still save
    so much; the search ends when there is none.

    Args:
        env: As in `EpisodicSearch`.
        evaluations: How many it takes to come down to the size that a constraint allows, or else to use the model up:
            of L layers each round saves the share L / evaluations of what there is to save, in parameters.
        seed: Nothing is random.
    """

    def __init__(self, env: gym.Env[Any, Any] | None = None, evaluations: int = 350, seed: int | None = None) -> None:
        if evaluations < 1:
            raise ValueError(f"at least one evaluation must be spent, got evaluations={evaluations!r}")
        super().__init__(env, seed)
        self.evaluations = evaluations

    def search(self, problem: Any) -> Proposals:
        """See `EpisodicSearch.search`."""
        here = {layer.name: layer.max_rank for layer in problem.layers}
        share = len(problem.layers) / self.evaluations
        constraint = problem.constraint
        if isinstance(constraint, Budget) and constraint.resource == "size":
            # Only whole rounds come down to it.
            share = (1 - constraint.budget) / max(1, self.evaluations // len(problem.layers))
        while True:
            best: tuple[float, float] = (math.inf, math.inf)
            chosen: Mapping[str, int] | None = None
            for index in range(len(problem.layers)):
                there = self._cut(problem, here, index, share)
                if there is None:
                    continue
                outcome = yield there
                require_unchanged(outcome, there)
                if (outcome.error, outcome.size_ratio) < best:
                    best, chosen = (outcome.error, outcome.size_ratio), there
            if chosen is None:
                return
            here = dict(chosen)

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
