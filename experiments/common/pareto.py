"""WER and size together: Pareto fronts and the areas that they dominate, by moocore."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["hypervolume", "hypervolumes", "pareto_front"]


def hypervolume(wer: ArrayLike, size: ArrayLike, reference: float) -> float:
    """Return the area that configurations dominate, up to a reference WER and the size 1 (Zitzler and Thiele 1998).

    Args:
        wer: WER of each configuration, a fraction.
        size: Size ratio of each configuration.
        reference: The reference WER, a fraction.
    """
    return float(moocore.hypervolume(_columns(wer, size), ref=[reference, 1.0]))


def hypervolumes(wer: Sequence[float], size: Sequence[float], length: int, reference: float) -> NDArray[np.float64]:
    """Return the hypervolume after each unique evaluation, (length,); it is constant after the end of the run."""
    counts = np.minimum(np.arange(1, length + 1), len(wer))
    return np.array([hypervolume(wer[:count], size[:count], reference) for count in counts])


def pareto_front(wer: ArrayLike, size: ArrayLike) -> NDArray[np.int64]:
    """Return the indices of the configurations on the Pareto front, by increasing size.

    Args:
        wer: WER of each configuration.
        size: Size ratio of each configuration.
    """
    columns = _columns(wer, size)
    front = np.flatnonzero(moocore.is_nondominated(columns))
    ordered: NDArray[np.int64] = front[np.argsort(columns[front, 1], kind="stable")]
    return ordered


def _columns(wer: ArrayLike, size: ArrayLike) -> NDArray[np.float64]:
    return np.column_stack([np.asarray(wer, np.float64), np.asarray(size, np.float64)])
