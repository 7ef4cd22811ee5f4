"""The course of a search: where time went, and what the policy's episodes returned."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from shrinkml_env import Evaluation, Ledger

__all__ = ["SEARCH", "Course", "EpisodeReturns"]

SEARCH = "search"
"""The phase that the evaluations on the proxy set belong to."""


class Course:
    """A record of the phases of a run, which follow one another. It begins when it is made.

    It observes the ledger of a search (`Ledger.subscribe`): each evaluation ends a part of the phase `SEARCH`.

    Attributes:
        phases: Name -> seconds, in the order in which they first ended.
        evaluations: Seconds from one evaluation to the next, the agent's own time included.
        returns: For each finished episode the number of unique evaluations so far, and its undiscounted return; none
            for agents that are not Stable-Baselines3's.
    """

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.evaluations: list[float] = []
        self.returns: list[tuple[int, float]] = []
        self._since = time.perf_counter()

    def __call__(self, evaluation: Evaluation, count: int) -> None:
        """Take the time since the last evaluation."""
        self.evaluations.append(self.end(SEARCH))

    def end(self, phase: str) -> float:
        """End a phase, and return the seconds since the end of the last one; phases of one name add up."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        return seconds


class EpisodeReturns(BaseCallback):
    """A callback of Stable-Baselines3 that adds every episode's return to a course.

    Args:
        course: The course of the search.
        ledger: The search's ledger.
    """

    def __init__(self, course: Course, ledger: Ledger) -> None:
        super().__init__()
        self._course, self._ledger = course, ledger
        self._sums: Any = 0.0

    def _on_step(self) -> bool:
        self._sums = self._sums + np.asarray(self.locals["rewards"], float)
        done = np.asarray(self.locals["dones"], bool)
        self._course.returns += [(self._ledger.count, float(value)) for value in self._sums[done]]
        self._sums = np.where(done, 0.0, self._sums)
        return True
