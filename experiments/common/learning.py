"""Compares the mean return of agents that learn with that of agents that do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_ind_from_stats

from experiments.common.statistics import mean

__all__ = ["FROZEN", "LEARNING", "learning_cells"]

FROZEN = "agent.learning_rate=0"
"""The override of `experiments.search` that keeps an agent of Stable-Baselines3 from learning."""

LEAST_EPISODES = 20
"""Episodes of a run whose last tenth has a variance."""

LEARNING = (
    "episodes",
    "mean return: first tenth",
    "last tenth (95 %)",
    "without learning (95 %)",
    "runs that end above it",
)
"""The policy's own mean return, over episodes and seeds; intervals are over seeds. A run ends above an agent that does
not learn if the mean over its last tenth is above the mean over all episodes of the other (Welch's t-test, one-sided at
5 %)."""


def learning_cells(runs: Sequence[Sequence[float]], frozen: Sequence[Sequence[float]]) -> tuple[str, ...]:
    """Return the cells of a table's row, see `LEARNING`; they are empty if a run has fewer than `LEAST_EPISODES`.

    Args:
        runs: The returns of an agent's episodes in each run, in order.
        frozen: Those of the same agent with a learning rate of 0.
    """
    if min(map(len, [*runs, *frozen])) < LEAST_EPISODES:
        return ("",) * len(LEARNING)
    tenths = [np.array_split(np.array(returns), 10) for returns in runs]
    without = np.concatenate([np.array(returns) for returns in frozen])
    # From moments, since returns that are all equal, those of a policy that is sure of itself, are no reason to warn.
    above = [
        ttest_ind_from_stats(*_moments(parts[-1]), *_moments(without), equal_var=False, alternative="greater").pvalue
        for parts in tenths
    ]
    return (
        f"{np.mean([len(returns) for returns in runs]):,.0f}",
        f"{np.mean([parts[0].mean() for parts in tenths]):.4f}",
        _interval([float(parts[-1].mean()) for parts in tenths]),
        _interval([float(np.mean(returns)) for returns in frozen]),
        f"{sum(p < 0.05 for p in above)} of {len(runs)}",
    )


def _moments(values: NDArray[np.float64]) -> tuple[float, float, int]:
    return float(values.mean()), float(values.std(ddof=1)), len(values)


def _interval(values: Sequence[float]) -> str:
    return f"{mean(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"
