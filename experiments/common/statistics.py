"""Statistics of runs: anytime curves, means with bootstrap intervals, comparisons of agents, increases of WER.

The methods are those of rliable (Agarwal et al. 2021, arXiv 2108.13264): scores of several runs (seeds) on several
tasks (rewards), stratified bootstrap over the runs of each task, 95 % percentile intervals.

Intervals over fewer than `FEW` seeds would hold the truth too seldom: those of three seeds, which end at the smallest
and the largest, in 75 of 100 cases instead of 95. Their limits are NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rliable import library, metrics
from scipy.stats import bootstrap, trim_mean

from shrinkml_env.evaluation.intervals import RESAMPLES, Estimate

__all__ = [
    "FEW",
    "anytime",
    "difference",
    "evaluations_to_reach",
    "improvement",
    "in_points",
    "iqm",
    "iqm_curve",
    "mean",
    "mean_difference",
    "mean_wer_increase",
    "profile",
]

Scores = NDArray[np.float64]
"""(runs, tasks), or (runs, tasks, evaluations) for curves."""


def anytime(rewards: Sequence[float], feasible: Sequence[bool], length: int, worst: float) -> Scores:
    """Return the best feasible reward after each unique evaluation, (length,).

    Args:
        rewards: The reward of each unique evaluation, in order.
        feasible: Whether each is feasible.
        length: Length of the curve; it is constant after the end of the run.
        worst: The value before the first feasible evaluation.
    """
    best = np.empty(length)
    reached = worst
    for index in range(length):
        if index < len(rewards) and feasible[index]:
            reached = max(reached, rewards[index])
        best[index] = reached
    return best


def evaluations_to_reach(curve: Scores, score: float) -> int | None:
    """Return the number of evaluations after which an increasing curve reaches a score; None if it never does."""
    (reached,) = np.nonzero(curve >= score)
    return int(reached[0]) + 1 if len(reached) else None


FEW = 10
"""The fewest seeds for which a bootstrap over seeds is an interval for their mean. (What is not random has one.)"""


def iqm(scores: Scores) -> Estimate:
    """Return the interquartile mean of scores over runs and tasks, (runs, tasks)."""
    return _estimate(scores, lambda values: np.array([metrics.aggregate_iqm(values)]))[0]


def iqm_curve(scores: Scores, indices: Sequence[int]) -> list[Estimate]:
    """Return the interquartile mean of curves, (runs, tasks, evaluations), at some indices of the last dimension."""
    chosen = scores[:, :, list(indices)]
    # rliable's aggregate_iqm, for all indices at once.
    return _estimate(chosen, lambda values: trim_mean(values.reshape(-1, len(indices)), 0.25, axis=0))


def difference(one: Scores, other: Scores) -> Estimate:
    """Return the difference of two agents' interquartile means; it is significant if the interval excludes 0."""
    return _estimate((one, other), lambda a, b: np.array([metrics.aggregate_iqm(a) - metrics.aggregate_iqm(b)]))[0]


def improvement(one: Scores, other: Scores) -> Estimate:
    """Return the probability that a run of one agent is better than a run of another, averaged over tasks."""
    return _estimate((one, other), lambda a, b: np.array([metrics.probability_of_improvement(a, b)]))[0]


def profile(scores: Scores, thresholds: Sequence[float]) -> Scores:
    """Return the share of the runs with scores above each threshold, (thresholds,)."""
    return np.array([float(np.mean(scores > threshold)) for threshold in thresholds])


def mean(values: ArrayLike) -> Estimate:
    """Return the mean over seeds with a percentile bootstrap interval, whose limits are NaN for fewer than `FEW`."""
    sample = np.asarray(values, np.float64)
    if len(sample) < FEW:
        return Estimate(float(sample.mean()), float("nan"), float("nan"))
    interval = bootstrap((sample,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0).confidence_interval
    return Estimate(float(sample.mean()), float(interval.low), float(interval.high))


def mean_difference(one: ArrayLike, other: ArrayLike) -> Estimate:
    """Return the difference of the means of two groups of seeds, with a percentile bootstrap interval over both.

    The limits are NaN if a group has fewer than `FEW` seeds.
    """
    samples = np.asarray(one, np.float64), np.asarray(other, np.float64)

    def minus(a: Any, b: Any, axis: int) -> Any:
        return a.mean(axis) - b.mean(axis)

    value = float(minus(*samples, 0))
    if min(len(sample) for sample in samples) < FEW:
        return Estimate(value, float("nan"), float("nan"))
    interval = bootstrap(
        samples, minus, vectorized=True, n_resamples=RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def mean_wer_increase(edits: ArrayLike, edits_before: ArrayLike, words: ArrayLike) -> Estimate:
    """Estimate how much higher the mean WER of one group of seeds is than that of another, on the same utterances.

    Unlike `wer_increase`, the bootstrap resamples both the seeds of each group and the utterances, so that the interval
    covers other seeds and other utterances. Its limits are NaN if a group has several seeds, but fewer than `FEW`.

    Args:
        edits: Word errors, (seeds, utterances).
        edits_before: Word errors of the group to compare with, (seeds, utterances), with any number of seeds.
        words: Reference words of each utterance, (utterances,).
    """
    groups = [np.asarray(group, np.float64) for group in (edits, edits_before)]
    reference = np.asarray(words, np.float64)
    drawn, *weights = _shares((len(reference), *map(len, groups)))
    one, other = (shares @ group for shares, group in zip(weights, groups, strict=True))
    resampled = ((one - other) * drawn).sum(1) / (drawn @ reference)
    value = (groups[0].mean(0) - groups[1].mean(0)).sum() / reference.sum()
    if any(1 < len(group) < FEW for group in groups):
        return Estimate(float(value), float("nan"), float("nan"))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


@lru_cache(maxsize=8)
def _shares(counts: tuple[int, ...]) -> tuple[NDArray[np.float64], ...]:
    """Return the share of each element in each bootstrap sample, (resamples, count) for each count of elements."""
    generator = np.random.default_rng(0)
    return tuple(generator.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count for count in counts)


def in_points(increase: Estimate) -> str:
    """Format a difference of WERs in percentage points: with its interval, or with the end of a one-sided one."""
    if increase.low == -np.inf:
        return f"{100 * increase.value:+.2f} ({100 * increase.high:+.2f})"
    return f"{increase.times(100):+.2f}"


def _estimate(scores: Any, function: Callable[..., Any]) -> list[Estimate]:
    few = min(len(group) for group in (scores if isinstance(scores, tuple) else (scores,))) < FEW
    # rliable uses NumPy's global generator.
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        found: tuple[Mapping[str, Any], Mapping[str, Any]] = library.get_interval_estimates(
            {"agent": scores}, function, reps=RESAMPLES
        )
    finally:
        np.random.set_state(before)  # noqa: NPY002
    values, intervals = (np.asarray(part["agent"]) for part in found)
    if few:
        intervals = np.full_like(intervals, np.nan)
    return [
        Estimate(float(value), float(low), float(high)) for value, low, high in zip(values, *intervals, strict=True)
    ]
