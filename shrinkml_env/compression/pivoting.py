"""The choice of the columns that the pivoting form of a matrix keeps."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import qr, solve, solve_triangular
from torch import Tensor

__all__ = ["LARGEST", "column_order", "interpolation"]

LARGEST = 1.01
"""The largest absolute entry of T; while an entry is larger, the two columns that it relates are exchanged."""


def column_order(v: Tensor) -> Tensor:
    """Return an order of the columns of V: first r columns that express the others with small coefficients.

    The first r columns are chosen by a QR decomposition with column pivoting (LAPACK's `geqp3`), and then exchanged one
    by one as long as an entry of T = V_first^-1 V_others exceeds `LARGEST`. Each exchange multiplies the volume
    abs(det V_first) by that entry, so that the exchanges end, at a locally maximal volume (Goreinov et al. 2010, "How
    to find a good submatrix"; the strong rank-revealing QR of Gu and Eisenstat 1996 bounds T in the same way). No
    entry of T is then larger than `LARGEST`, whatever V is, so that rounding T loses as little as rounding V.

    Args:
        v: V, (r, n), float64, of full rank r <= n.

    Returns:
        A permutation, (n,) int64: the first r and the other columns, each in ascending order.
    """
    rank = len(v)
    _, triangle, order = qr(v.numpy(), mode="economic", pivoting=True, check_finite=False)
    # Row i holds the coefficients of column order[i] in the combinations that give the other columns.
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
