"""Confidence intervals of word error rates."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["RESAMPLES", "Estimate", "wer_increase"]

RESAMPLES = 2000
"""The number of bootstrap samples for every interval."""


class Estimate(NamedTuple):
    """A point estimate and its 95 % confidence interval, whose limits are NaN where there is too little for one.

    ``f"{estimate:+.2f}"`` is ``+1.00 [+0.50, +1.50]``, or ``+1.00`` without an interval; without a format there are
    three digits.
    """

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        """Return the estimate in another unit: 100 for percent."""
        return Estimate(*(factor * part for part in self))

    def to_json(self) -> dict[str, float | None]:
        """Return the numbers by name, None for a limit that is NaN."""
        return {name: None if math.isnan(number) else number for name, number in self._asdict().items()}

    def __format__(self, spec: str) -> str:
        value, low, high = (format(part, spec or ".3f") for part in self)
        return value if math.isnan(self.low) else f"{value} [{low}, {high}]"

    def __str__(self) -> str:
        return format(self)


def wer_increase(edits: ArrayLike, edits_before: ArrayLike, words: ArrayLike, one_sided: bool = False) -> Estimate:
    """Estimate how much higher one corpus WER is than another on the same utterances, by a paired bootstrap.

    Each bootstrap sample draws utterances with replacement, and takes both measurements' errors and the reference words
    of the same utterances (Bisani and Ney 2004, doi 10.1109/ICASSP.2004.1326009).

    Args:
        edits: Word errors of each utterance, (utterances,).
        edits_before: Word errors of each utterance in the measurement to compare with, (utterances,).
        words: Reference words of each utterance, (utterances,).
        one_sided: Whether to return a one-sided interval: from minus infinity to the upper 95 % limit.

    Returns:
        Fractions, not percent; the limits are NaN if there is only one utterance.
    """
    from scipy.stats import bootstrap  # A sixth of the library's time of import, for what comes at a search's end.

    parts = np.asarray([edits, edits_before, words], np.float64)

    def increase(after: Any, before: Any, reference: Any, axis: int) -> Any:
        return (after - before).sum(axis) / reference.sum(axis)

    value = float(increase(parts[0], parts[1], parts[2], 0))
    if parts.shape[1] < 2:
        return Estimate(value, float("nan"), float("nan"))
    interval = bootstrap(
        tuple(parts),
        increase,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        alternative="less" if one_sided else "two-sided",
        rng=0,
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))
