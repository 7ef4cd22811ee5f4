"""Random search."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.episodic import EpisodicSearch, Proposals

__all__ = ["RandomSearch"]


class RandomSearch(EpisodicSearch):
    """Draws every layer's rank independently and uniformly from its candidates."""

    def search(self, problem: Any) -> Proposals:
        """See `EpisodicSearch.search`; a draw may repeat an earlier one."""
        random = np.random.default_rng(self.seed)
        while True:
            yield {
                layer.name: ranks[random.integers(len(ranks))]
                for layer, ranks in zip(problem.layers, problem.candidates, strict=True)
            }
