"""Factors in place of a matrix, and the methods that make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from shrinkml_env.compression.layers import FactorForm, Layer

__all__ = ["Factorisation", "Factors", "expand_right", "order_dtype", "times_right"]


class Factors(NamedTuple):
    """An m x n matrix W of rank r as U V, in one of two forms.

    As two factors, both are held. In pivoting form (PIFA, arXiv 2501.19090) V = [I T] P is a permutation P of an
    identity matrix and T, and only T is held: U is made of r columns of W, and V says how the others come from them.

    Attributes:
        u: U, (m, r).
        v: V, (r, n); or T, (r, n - r).
        order: None, or, in pivoting form, all columns of W, the r of U first: (n,) integers, no two the same. The
            others are in the order of the columns of T.
    """

    u: Tensor
    v: Tensor
    order: Tensor | None = None

    @property
    def form(self) -> FactorForm:
        """The form in which the matrix is held."""
        return "factors" if self.order is None else "pivoting"

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the matrix."""
        return len(self.u), self.v.shape[1] if self.order is None else len(self.order)

    @property
    def product(self) -> Tensor:
        """U V, (m, n)."""
        return self.u @ expand_right(self.v, self.order)


def expand_right(v: Tensor, order: Tensor | None) -> Tensor:
    """Return the right factor V, (r, n), of a matrix in either form; see `Factors`."""
    if order is None:
        return v
    both = torch.cat([torch.eye(len(v), dtype=v.dtype, device=v.device), v], dim=1)
    return both.index_select(1, order.argsort())


def times_right(inputs: Tensor, v: Tensor, order: Tensor | None) -> Tensor:
    """Return V x for each x: (..., n) -> (..., r), in pivoting form by r(n - r) multiply-adds; see `Factors`."""
    if order is None or inputs.is_nested:  # Nested tensors have no columns to select.
        return torch.nn.functional.linear(inputs, expand_right(v, order))
    ordered = inputs.index_select(-1, order.int())
    rank = len(v)
    return ordered[..., :rank] + torch.nn.functional.linear(ordered[..., rank:], v)


def order_dtype(columns: int) -> torch.dtype:
    """Return the smallest number format for the order of so many columns."""
    return torch.int16 if columns <= torch.iinfo(torch.int16).max else torch.int32


@runtime_checkable
class Factorisation(Protocol):
    """A way to factor the matrices of one model at any rank, prepared once and asked for many configurations."""

    @property
    def name(self) -> str:
        """What the method is called in configs and reports."""

    @property
    def key(self) -> str:
        """Everything but the model's weights that the factors depend on: the method's part of a cache key."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The model's layers, with the form of the factors, and with the stacks of matrices that share a factor."""

    @property
    def singular_values(self) -> Mapping[str, Tensor]:
        """Matrix name -> its min(m, n) singular values, float64, descending."""

    def factors(self, matrix: str, rank: int) -> Factors:
        """Return new float32 tensors on the CPU whose values the model's `storage_dtype` represents exactly.

        Those of a stack have the rows of all its parts.

        Raises:
            ValueError: The matrix is unknown, or the rank is not in 1..min(m, n).
        """
