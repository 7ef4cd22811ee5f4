"""The choice of the columns that a matrix in pivoting form keeps."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import qr, solve, solve_triangular
from torch import Tensor

__all__ = ["LARGEST", "column_order", "interpolation"]

LARGEST = 1.01
"""Entries of T are at most so large: a column that needs more than that of another is exchanged for it."""


def column_order(v: Tensor) -> Tensor:
    """Return all columns of a matrix V of full rank, those first of which the others are small combinations.

    The first r columns are chosen by a QR decomposition with column pivoting (LAPACK's `geqp3`), and then exchanged one
    by one as long as an entry of T = V_first^-1 V_others exceeds `LARGEST`: each exchange multiplies the volume
    abs(det V_first) by that entry, so that they end, at a locally maximal volume (Goreinov et al. 2010, "How to find a
    good submatrix"; the strong rank-revealing QR of Gu and Eisenstat 1996 bounds T in the same way). No entry of T is
    then larger than `LARGEST`, whatever V is, so that rounding T loses as little as rounding V.

    Args:
        v: (r, n), float64, r <= n.

    Returns:
        (n,) int64, both parts ascending.
    """
    rank = len(v)
    _, triangle, order = qr(v.numpy(), mode="economic", pivoting=True, check_finite=False)
    # Row i: how column order[i] stands in the combinations of all others.
    table = solve_triangular(triangle[:, :rank], triangle[:, rank:], check_finite=False)
    while table.size and abs(table).max() > LARGEST:
        row, column = np.unravel_index(abs(table).argmax(), table.shape)
        order[row], order[rank + column] = order[rank + column], order[row]
        pivot = table[row, column]
        left, right = table[:, column].copy(), table[row].copy()
        left[row] -= 1.0
        right[column] += 1.0
        table -= np.outer(left, right) / pivot
    return torch.from_numpy(np.concatenate([np.sort(order[:rank]), np.sort(order[rank:])]).astype(np.int64))


def interpolation(v: Tensor, order: Tensor) -> Tensor:
    """Return T, (r, n - r), float64, such that V = V_first [I T] with the columns in this order."""
    rank = len(v)
    ordered = v[:, order]
    return torch.from_numpy(solve(ordered[:, :rank].numpy(), ordered[:, rank:].numpy(), check_finite=False))
