"""The factors of a matrix, and the protocol of factorisations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from shrinkml_env.compression.layers import FactorForm, Layer

__all__ = ["Factorisation", "Factors", "expand_right", "order_dtype", "times_right"]


class Factors(NamedTuple):
    """An m x n matrix W of rank r as a product U V, in one of two forms.

    The form ``"factors"`` stores U and V. The pivoting form (PIFA, arXiv 2501.19090) takes r columns of W as U, so that
    V = [I T] P with a permutation P, and stores T instead of V: T expresses the other columns of W by those of U.

    Attributes:
        u: U, (m, r).
        v: V, (r, n); in pivoting form T, (r, n - r).
        order: None; in pivoting form the permutation, (n,) integers: the indices in W of U's columns, then those of the
            other columns, in the order of T's columns.
    """

    u: Tensor
    v: Tensor
    order: Tensor | None = None

    @property
    def form(self) -> FactorForm:
        """The form of the factors."""
        return "factors" if self.order is None else "pivoting"

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the matrix."""
        return len(self.u), self.v.shape[1] if self.order is None else len(self.order)

    @property
    def product(self) -> Tensor:
        """The product U V, (m, n)."""
        return self.u @ expand_right(self.v, self.order)


def expand_right(v: Tensor, order: Tensor | None) -> Tensor:
    """Return the right factor V, (r, n), of a matrix in either form; see `Factors`."""
    if order is None:
        return v
    both = torch.cat([torch.eye(len(v), dtype=v.dtype, device=v.device), v], dim=1)
    return both.index_select(1, order.argsort())


def times_right(inputs: Tensor, v: Tensor, order: Tensor | None) -> Tensor:
    """Return V x for each input vector x: (..., n) -> (..., r); the pivoting form takes r(n - r) multiply-adds."""
    if order is None or inputs.is_nested:  # nested tensors do not support index_select
        return torch.nn.functional.linear(inputs, expand_right(v, order))
    # On a CPU index_select along the last of two dimensions is several times as fast as along the last of three.
    ordered = inputs.reshape(-1, len(order)).index_select(1, order.int()).view(inputs.shape)
    rank = len(v)
    return ordered[..., :rank] + torch.nn.functional.linear(ordered[..., rank:], v)


def order_dtype(columns: int) -> torch.dtype:
    """Return the smallest integer dtype for an order of this many columns."""
    return torch.int16 if columns <= torch.iinfo(torch.int16).max else torch.int32


@runtime_checkable
class Factorisation(Protocol):
    """A factorisation of one model's matrices: prepared once, it returns the factors of any matrix at any rank."""

    @property
    def name(self) -> str:
        """The name of the method in configs and reports."""

    @property
    def key(self) -> str:
        """The part of a cache key that identifies the method and its settings."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The model's layers in the form of the factors, with matrices that share a right factor joined into stacks."""

    @property
    def singular_values(self) -> Mapping[str, Tensor]:
        """Matrix name -> its min(m, n) singular values, float64, descending."""

    def factors(self, matrix: str, rank: int) -> Factors:
        """Return the factors of a matrix or stack at a rank.

        Args:
            matrix: Name of a matrix or stack of `layers`; a stack's U has the rows of all its parts.
            rank: 1..min(m, n).

        Returns:
            New float32 tensors on the CPU, rounded to the model's `storage_dtype`.

        Raises:
            ValueError: The matrix is unknown, or the rank is not in 1..min(m, n).
        """
