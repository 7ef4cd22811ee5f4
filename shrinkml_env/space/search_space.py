"""Search spaces say which layers a search decides about, and which ranks it may choose for each."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shrinkml_env.compression.layers import Layer

__all__ = ["SearchSpace", "uniform_ranks"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The candidates of every layer that is decided; all action kinds and all searchers choose among the same ones.

    A configuration has three spellings, and the search space translates between them: *ranks*, layer name -> rank;
    *places*, for each layer the index of its rank among the layer's candidates; and the ranks alone, in forward order,
    of all layers or of the first ones.

    Attributes:
        layers: The layers to decide, in forward order, each with a break-even rank of at least 1.
        candidates: For each of them its ranks, ascending, the last one being `Layer.max_rank`, that is, dense.
        factorisation: The method with which the sensitivity was measured that the candidates come from; None if they
            come from none.
        levels: For each layer the place of its candidate at each of the levels that all layers have in common, from the
            smallest model (level 0) to dense (the last level), never falling; None if the space has no levels.

    Raises:
        ValueError: There is no layer, a layer cannot be made smaller, or its candidates or levels are not as described.
    """

    layers: tuple[Layer, ...]
    candidates: tuple[tuple[int, ...], ...]
    factorisation: str | None = None
    levels: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("the search space is empty: the model has no layer that any rank makes smaller")
        if len(self.layers) != len(self.candidates):
            raise ValueError(
                f"{len(self.layers)} layers, but candidates for {len(self.candidates)}; give one per layer"
            )
        for layer, ranks in self.choices:
            if layer.break_even < 1:
                raise ValueError(f"layer {layer.name!r} cannot be made smaller by any rank; leave it out")
            if len(ranks) < 2 or ranks[-1] != layer.max_rank:
                raise ValueError(
                    f"layer {layer.name!r}: candidates must be at least one rank in 1..{layer.break_even} and, last, "
                    f"{layer.max_rank} (dense), got {ranks}"
                )
            if any(layer.canonical(rank) != rank for rank in ranks) or list(ranks) != sorted(set(ranks)):
                raise ValueError(f"layer {layer.name!r}: candidates must be distinct and ascending, got {ranks}")
        if self.levels is not None:
            self._require_levels(self.levels)

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of each layer's candidates."""
        return tuple(len(candidates) for candidates in self.candidates)

    @property
    def choices(self) -> Iterator[tuple[Layer, tuple[int, ...]]]:
        """The layers, each with its candidates."""
        return zip(self.layers, self.candidates, strict=True)

    @property
    def size(self) -> int:
        """The number of configurations: the product of the candidate counts."""
        return math.prod(self.counts)

    @property
    def dense(self) -> dict[str, int]:
        """The original: layer name -> its largest rank."""
        return self.named([candidates[-1] for candidates in self.candidates])

    @property
    def smallest(self) -> dict[str, int]:
        """The smallest configuration: layer name -> its smallest candidate."""
        return self.named([candidates[0] for candidates in self.candidates])

    def configurations(self) -> Iterator[dict[str, int]]:
        """Yield the ranks of every configuration; those of the last layer change fastest."""
        return map(self.named, itertools.product(*self.candidates))

    def named(self, ranks: Sequence[int]) -> dict[str, int]:
        """Return layer name -> rank, given the ranks of all layers or of the first ones, in forward order."""
        return {layer.name: rank for layer, rank in zip(self.layers[: len(ranks)], ranks, strict=True)}

    def ranks(self, places: Sequence[int]) -> dict[str, int]:
        """Return layer name -> rank, given the places of all layers or of the first ones, in forward order."""
        count = len(places)
        rows = zip(self.layers[:count], self.candidates[:count], places, strict=True)
        return {layer.name: ranks[place] for layer, ranks, place in rows}

    def places(self, ranks: Mapping[str, int]) -> tuple[int, ...]:
        """Return each layer's place in a configuration.

        Args:
            ranks: Layer name -> rank, in any spelling of it. A layer that it leaves out is dense; one that the search
                space does not decide is passed over.

        Raises:
            ValueError: A rank is not a candidate.
        """
        return tuple(
            self._place(layer, candidates, ranks.get(layer.name, layer.max_rank)) for layer, candidates in self.choices
        )

    def tabulate(self, function: Callable[[Layer, int], T]) -> tuple[dict[int, T], ...]:
        """Return for each layer the values of a function of (layer, rank): candidate -> value, in ascending order."""
        return tuple({rank: function(layer, rank) for rank in candidates} for layer, candidates in self.choices)

    def nearest(self, layer_index: int, rank: float) -> int:
        """Return the layer's candidate that is closest to a rank, which need not be whole; of two, the smaller."""
        return min(self.candidates[layer_index], key=lambda candidate: (abs(candidate - rank), candidate))

    def at_level(self, level: int) -> dict[str, int]:
        """Return the configuration in which every layer has its candidate at one level, in 0..`top_level`.

        Raises:
            ValueError: The space has no levels, or not this one.
        """
        if not 0 <= level <= self.top_level:
            raise ValueError(f"level must be in 0..{self.top_level}, got {level!r}")
        return self.ranks([places[level] for places in self._known_levels])

    @property
    def ranks_at_levels(self) -> tuple[tuple[int, ...], ...]:
        """For each layer its rank at each level.

        Raises:
            ValueError: The space has no levels.
        """
        rows = zip(self.candidates, self._known_levels, strict=True)
        return tuple(tuple(ranks[place] for place in places) for ranks, places in rows)

    def level_of(self, layer_index: int, place: int) -> int:
        """Return the level of a layer's candidate; where it stands at several levels, the middle one.

        A candidate between two levels has the upper one.

        Raises:
            ValueError: The space has no levels.
        """
        places = self._known_levels[layer_index]
        first, behind = bisect_left(places, place), bisect_right(places, place)
        return first if behind <= first else (first + behind - 1) // 2

    @property
    def top_level(self) -> int:
        """The level at which every layer is dense.

        Raises:
            ValueError: The space has no levels.
        """
        return len(self._known_levels[0]) - 1

    @property
    def _known_levels(self) -> tuple[tuple[int, ...], ...]:
        if self.levels is None:
            raise ValueError(
                "the search space has no levels: take search_space='predicted' or 'allocated', whose ranks lie at "
                "levels of predicted damage"
            )
        return self.levels

    def _require_levels(self, levels: Sequence[Sequence[int]]) -> None:
        if len(levels) != len(self.layers) or len({len(places) for places in levels}) != 1 or len(levels[0]) < 2:
            raise ValueError("levels must be at least two, and as many for each layer")
        for layer, count, places in zip(self.layers, self.counts, levels, strict=True):
            if list(places) != sorted(places) or places[0] < 0 or places[-1] != count - 1:
                raise ValueError(
                    f"layer {layer.name!r}: the places at its levels must ascend in 0..{count - 1} and end with dense, "
                    f"got {tuple(places)}"
                )

    @staticmethod
    def _place(layer: Layer, candidates: tuple[int, ...], rank: int) -> int:
        canonical = layer.canonical(rank)
        if canonical not in candidates:
            raise ValueError(f"layer {layer.name!r}: rank {rank} is not a candidate; they are {candidates}")
        return candidates.index(canonical)


def uniform_ranks(layers: Iterable[Layer], fraction: float) -> dict[str, int]:
    """Return the same fraction (0 to 1) of each layer's break-even rank, rounded, at least 1: the usual baseline."""
    return {layer.name: max(1, round(fraction * layer.break_even)) for layer in layers if layer.break_even}
