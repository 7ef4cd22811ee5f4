"""Random search."""

from __future__ import annotations

import numpy as np

from agents.episodic import EpisodicSearch, Proposals
from shrinkml_env import SearchProblem

__all__ = ["RandomSearch"]


class RandomSearch(EpisodicSearch):
    """A search that samples every layer's rank independently and uniformly from its candidates."""

    def search(self, problem: SearchProblem) -> Proposals:
        """Propose random configurations without end; they may repeat; see `EpisodicSearch.search`."""
        random = np.random.default_rng(self.seed)
        while True:
            yield problem.search_space.ranks([int(random.integers(count)) for count in problem.search_space.counts])
