"""Random search."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from agents.episodic import EpisodicSearch

__all__ = ["RandomSearch"]


class RandomSearch(EpisodicSearch):
    """Draws every layer's rank independently and uniformly from its candidates."""

    def __init__(self, env: gym.Env[Any, Any] | None, seed: int | None = None) -> None:
        """See `EpisodicSearch`."""
        super().__init__(env, seed)
        self._random = np.random.default_rng(seed)

    def propose(self) -> dict[str, int]:
        """A new draw, which may repeat an earlier one."""
        problem: Any = self._environment().unwrapped.problem  # type: ignore[attr-defined]
        return {
            layer.name: ranks[self._random.integers(len(ranks))]
            for layer, ranks in zip(problem.layers, problem.candidates, strict=True)
        }
