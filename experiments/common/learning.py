"""Compares the returns of agents that learn with those of the same agents that do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_ind_from_stats

from experiments.common.pictures import plt, save_figure
from experiments.common.statistics import mean

__all__ = ["FROZEN", "LEARNING", "Returns", "draw_learning", "learning_cells"]

FROZEN = "agent.learning_rate=0"
"""The override of `experiments.search` that keeps an agent of Stable-Baselines3 from learning."""

LEAST_EPISODES = 20
"""Episodes of a run whose last tenth has a variance."""

PARTS = 40
"""Points of a policy's learning curve, each the mean of as many episodes."""

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


class Returns(NamedTuple):
    """The returns of an agent's episodes beside those of the same agent with a learning rate of 0.

    Attributes:
        runs: For each run, the undiscounted return of each episode, in order.
        frozen: The same of the agent that does not learn.
    """

    runs: Sequence[Sequence[float]]
    frozen: Sequence[Sequence[float]]

    @property
    def enough(self) -> bool:
        """Whether each run has the episodes that a comparison needs."""
        return min(map(len, [*self.runs, *self.frozen]), default=0) >= LEAST_EPISODES


def learning_cells(returns: Returns) -> tuple[str, ...]:
    """Return the cells of a table's row, see `LEARNING`; they are empty if a run has fewer than `LEAST_EPISODES`."""
    if not returns.enough:
        return ("",) * len(LEARNING)
    runs, frozen = returns
    tenths = [np.array_split(np.array(run), 10) for run in runs]
    without = np.concatenate([np.array(run) for run in frozen])
    # From moments, since returns that are all equal, those of a policy that is sure of itself, are no reason to warn.
    above = [
        ttest_ind_from_stats(*_moments(parts[-1]), *_moments(without), equal_var=False, alternative="greater").pvalue
        for parts in tenths
    ]
    return (
        f"{np.mean([len(run) for run in runs]):,.0f}",
        f"{np.mean([parts[0].mean() for parts in tenths]):.4f}",
        _interval([float(parts[-1].mean()) for parts in tenths]),
        _interval([float(np.mean(run)) for run in frozen]),
        f"{sum(p < 0.05 for p in above)} of {len(runs)}",
    )


def draw_learning(path: Path, panels: Mapping[str, Returns]) -> None:
    """Draw the policy's mean return and the best return so far over the episodes, with learning and without.

    Curves are means over seeds, as long as the shortest run; the band around the policy's is from the smallest to the
    largest seed. The policy that does not learn has one mean, over all its episodes.

    Args:
        path: The PNG file.
        panels: Title of a panel -> its returns.
    """
    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    size = (4.5 * columns, 3.4 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, constrained_layout=True)
    for place, (title, returns) in enumerate(panels.items()):
        _draw_panel(axes.flat[place], title, returns)
    for rest in axes.flat[len(panels) :]:
        rest.set_axis_off()
    axes.flat[0].legend(fontsize=7)
    save_figure(figure, path, dpi=110)


def _draw_panel(axes: Any, title: str, returns: Returns) -> None:
    runs, frozen = (np.array([run[: min(map(len, group))] for run in group]) for group in returns)
    parts = np.array_split(np.arange(runs.shape[1]), min(PARTS, runs.shape[1]))
    middles = [part.mean() + 1 for part in parts]
    policy = np.array([[run[part].mean() for part in parts] for run in runs])
    axes.plot(middles, policy.mean(axis=0), color="tab:blue", label="the policy's mean return")
    axes.fill_between(middles, policy.min(axis=0), policy.max(axis=0), color="tab:blue", alpha=0.2)
    still = float(np.mean([np.mean(run) for run in returns.frozen]))
    axes.axhline(still, color="tab:blue", linestyle="--", linewidth=1, label="without learning")
    for group, line, label in ((runs, "-", "best so far"), (frozen, "--", "best so far without learning")):
        best = np.maximum.accumulate(group, axis=1).mean(axis=0)
        axes.plot(np.arange(len(best)) + 1, best, line, color="tab:green", linewidth=1, label=label)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("episode", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)


def _moments(values: NDArray[np.float64]) -> tuple[float, float, int]:
    return float(values.mean()), float(values.std(ddof=1)), len(values)


def _interval(values: Sequence[float]) -> str:
    return f"{mean(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"
