"""Greedy search: each round compresses the layer that loses least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from agents.episodic import EpisodicSearch, Proposals, require_unchanged
from shrinkml_env import SearchProblem
from shrinkml_env.checks import whole_number

__all__ = ["GreedySearch"]


class GreedySearch(EpisodicSearch):
    """Greedy search from the original downwards, in rounds (NetAdapt, Yang et al. 2018).

    Each round saves a share of the parameters. In a round, each layer in turn is compressed just enough to save the
    round's share alone, and measured. The configuration with the lowest error is kept; among equal ones, the smallest.
    A round takes one evaluation for each layer that can still save the share; the search ends when no layer can.

    Args:
        env: The environment, see `EpisodicSearch`.
        evaluations: Number of evaluations for the whole way, at least 1: down to the constraint's size limit, or to the
            smallest model if there is none. With L layers, each round saves the share L / evaluations of the parameters
            to save.
        seed: Seed of the environment; the search is deterministic.

    Raises:
        ValueError: `evaluations` is not a whole number of at least 1.
    """

    def __init__(self, env: gym.Env[Any, Any] | None = None, evaluations: int = 350, seed: int | None = None) -> None:
        super().__init__(env, seed)
        self.evaluations = whole_number("evaluations", evaluations, least=1)

    def search(self, problem: SearchProblem) -> Proposals:
        """Propose the configurations of each round; see `EpisodicSearch.search`."""
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
            share = layers / self.evaluations
            while not (cuts := self._saving(problem, here, share)) and not played:
                share /= 2  # a first round that no layer can save would measure nothing
            return cuts
        left = problem.size(here) - problem.size_limit
        # A round takes fewer evaluations if some layers cannot save the share; the next shares are then smaller.
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
        """Return the configuration with one layer at its largest candidate that saves the share; None if none does."""
        name = problem.layers[index].name
        # The tolerance is for rounding.
        target = problem.size(here) - share + 1e-9
        for rank in reversed(problem.candidates[index]):
            if rank < here[name] and problem.size({**here, name: rank}) <= target:
                return {**here, name: rank}
        return None
