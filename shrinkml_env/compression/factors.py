"""Two factors in place of a matrix, and what makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Factorisation", "Factors"]


class Factors(NamedTuple):
    """An m x n matrix W as two of rank r: W is about `u @ v`.

    Attributes:
        u: (m, r).
        v: (r, n).
    """

    u: Tensor
    v: Tensor


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
    def singular_values(self) -> Mapping[str, Tensor]:
        """Matrix name -> its min(m, n) singular values, float64, descending."""

    def factors(self, matrix: str, rank: int) -> Factors:
        """New float32 tensors on the CPU whose values the model's `storage_dtype` represents exactly.

        Raises:
            ValueError: The matrix is unknown, or the rank is not in 1..min(m, n).
        """
