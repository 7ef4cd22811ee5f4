"""Which layers a search decides about, and the ranks it may choose for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from shrinkml_env.compression.layers import Layer

__all__ = ["SEARCH_SPACES", "SearchSpace", "uniform_ranks"]


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The candidates of every layer that is decided; all action kinds and all searchers choose among the same ones.

    Attributes:
        layers: The layers to decide, in forward order, each with a break-even rank of at least 1.
        candidates: For each of them its ranks, ascending, the last one being `Layer.max_rank`, that is, dense.

    Raises:
        ValueError: There is no layer, a layer cannot be made smaller, or its candidates are not as described.
    """

    layers: tuple[Layer, ...]
    candidates: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("the search space is empty: the model has no layer that any rank makes smaller")
        if len(self.layers) != len(self.candidates):
            raise ValueError(
                f"{len(self.layers)} layers, but candidates for {len(self.candidates)}; give one per layer"
            )
        for layer, ranks in zip(self.layers, self.candidates, strict=True):
            if layer.break_even < 1:
                raise ValueError(f"layer {layer.name!r} cannot be made smaller by any rank; leave it out")
            if len(ranks) < 2 or ranks[-1] != layer.max_rank:
                raise ValueError(
                    f"layer {layer.name!r}: candidates must be at least one rank in 1..{layer.break_even} and, last, "
                    f"{layer.max_rank} (dense), got {ranks}"
                )
            if any(layer.canonical(rank) != rank for rank in ranks) or list(ranks) != sorted(set(ranks)):
                raise ValueError(f"layer {layer.name!r}: candidates must be distinct and ascending, got {ranks}")

    @classmethod
    def full(cls, layers: Iterable[Layer], count: int = 24) -> Self:
        """The default space: `count` ranks spread evenly up to break-even, and dense.

        Args:
            layers: A model's layers; those that no rank makes smaller are left out.
            count: Ranks below dense, spaced by about r*/count; a layer with a smaller r* has all of 1..r*.

        Raises:
            ValueError: `count` is below 1, or no layer is left.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        offered = tuple(layer for layer in layers if layer.break_even >= 1)
        return cls(offered, tuple((*_spread(layer.break_even, count), layer.max_rank) for layer in offered))

    @property
    def size(self) -> int:
        """Number of configurations: the product of the candidate counts."""
        return math.prod(len(ranks) for ranks in self.candidates)

    def nearest(self, layer_index: int, rank: float) -> int:
        """The layer's candidate that is closest to a rank, which need not be whole; of two, the smaller."""
        return min(self.candidates[layer_index], key=lambda candidate: (abs(candidate - rank), candidate))

    def check(self, layer_index: int, rank: int) -> int:
        """The canonical form of a rank, if it is a candidate.

        Raises:
            ValueError: It is not one.
        """
        layer = self.layers[layer_index]
        canonical = layer.canonical(rank)
        if canonical not in self.candidates[layer_index]:
            raise ValueError(
                f"layer {layer.name!r}: rank {rank} is not a candidate; they are {self.candidates[layer_index]}"
            )
        return canonical


def uniform_ranks(layers: Iterable[Layer], fraction: float) -> dict[str, int]:
    """The same fraction (0 to 1) of each layer's break-even rank, rounded, at least 1: the hand-crafted baseline."""
    return {layer.name: max(1, round(fraction * layer.break_even)) for layer in layers if layer.break_even}


def _spread(break_even: int, count: int) -> list[int]:
    """`break_even * i / count` for i = 1..count, rounded half up, at least 1, without repetition."""
    return sorted({max(1, (2 * i * break_even + count) // (2 * count)) for i in range(1, count + 1)})


SEARCH_SPACES: dict[str, Callable[..., SearchSpace]] = {"full": SearchSpace.full}
"""Name -> factory, called with the layers and the options."""
