"""Search spaces say which layers a search decides about, and which ranks it may choose for each."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from shrinkml_env.checks import whole_number
from shrinkml_env.compression.layers import Layer
from shrinkml_env.space.sensitivity import Sensitivity

__all__ = ["SEARCH_SPACES", "Explicit", "Full", "Log", "SearchSpace", "Sensitive", "uniform_ranks"]

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

    Raises:
        ValueError: There is no layer, a layer cannot be made smaller, or its candidates are not as described.
    """

    layers: tuple[Layer, ...]
    candidates: tuple[tuple[int, ...], ...]
    factorisation: str | None = None

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
        candidates = self.candidates[: len(places)]
        return self.named([ranks[place] for ranks, place in zip(candidates, places, strict=True)])

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

    @staticmethod
    def _place(layer: Layer, candidates: tuple[int, ...], rank: int) -> int:
        canonical = layer.canonical(rank)
        if canonical not in candidates:
            raise ValueError(f"layer {layer.name!r}: rank {rank} is not a candidate; they are {candidates}")
        return candidates.index(canonical)


@dataclass(frozen=True, slots=True)
class Full:
    """The default: ranks spread evenly up to break-even, and dense.

    Attributes:
        count: Ranks below dense, spaced by about r*/count; a layer with a smaller r* has all of 1..r*.
    """

    count: int = 24

    def __post_init__(self) -> None:
        _require_count("full", self.count)

    def __call__(self, layers: Iterable[Layer]) -> SearchSpace:
        """Form the space of a model's layers; those that no rank makes smaller are left out.

        Raises:
            ValueError: No layer is left.
        """
        return _form(layers, lambda layer: _evenly(layer.break_even, self.count))


@dataclass(frozen=True, slots=True)
class Log:
    """Ranks from 1 to break-even at equal ratios, and dense: most of them where the model is small.

    Attributes:
        count: Ranks below dense, fewer where rounding makes some equal.
    """

    count: int = 16

    def __post_init__(self) -> None:
        _require_count("log", self.count)

    def __call__(self, layers: Iterable[Layer]) -> SearchSpace:
        """Form the space, as `Full.__call__` does."""
        return _form(
            layers,
            lambda layer: [
                round(layer.break_even ** (1.0 if self.count == 1 else index / (self.count - 1)))
                for index in range(self.count)
            ],
        )


@dataclass(frozen=True, slots=True)
class Explicit:
    """The ranks that are given, and dense.

    Attributes:
        candidates: Layer name -> ranks, in any order; what it leaves out is not decided and stays dense.
    """

    candidates: Mapping[str, Sequence[int]]

    def __call__(self, layers: Iterable[Layer]) -> SearchSpace:
        """Form the space, as `Full.__call__` does.

        Raises:
            ValueError: A layer is unknown, or a rank is out of range.
        """
        known = {layer.name: layer for layer in layers}
        if not isinstance(self.candidates, Mapping) or not all(
            isinstance(ranks, Sequence) and not isinstance(ranks, str) for ranks in self.candidates.values()
        ):
            raise ValueError(
                f"search space 'explicit': candidates must be like {{'encoder.2': [16, 32]}}, got {self.candidates!r}"
            )
        for name in self.candidates:
            if name not in known:
                raise ValueError(f"search space: no layer is named {name!r}; the layers are {', '.join(known)}")
        chosen = [layer for name, layer in known.items() if name in self.candidates]
        ranks = {
            layer: [whole_number(f"layer {layer.name!r}: a candidate", rank, 1) for rank in self.candidates[layer.name]]
            for layer in chosen
        }
        return _form(chosen, lambda layer: {layer.canonical(rank) for rank in ranks[layer]} - {layer.max_rank})


@dataclass(frozen=True, slots=True)
class Sensitive:
    """Ranks where they matter, and dense: formed from what each layer costs by itself (`Sensitivity`).

    A rank is *fatal* if it alone, all other layers dense, costs more than `fatal` of WER; ranks up to the largest
    fatal one are left out, and so is a layer that has no others. A rank is *useless* if it is more than `margin` times
    as large as the one from which on nothing is lost. In between, half of the candidates are spread evenly over the
    ranks and half over the WER: they are densest where the WER moves.

    Attributes:
        path: The file that `Sensitivity.save` wrote; None for the embedded model's.
        count: Ranks below dense, at most.
        fatal: WER lost, a fraction > 0.
        harmless: WER lost that counts as nothing, a fraction >= 0.
        margin: >= 1.
    """

    path: str | os.PathLike[str] | None = None
    count: int = 16
    fatal: float = 0.2
    harmless: float = 0.003
    margin: float = 2.0

    def __post_init__(self) -> None:
        _require_count("sensitivity", self.count)
        if not (self.fatal > self.harmless >= 0 and self.margin >= 1):
            raise ValueError(
                f"search space 'sensitivity': 0 <= harmless < fatal and margin >= 1 must hold, got harmless="
                f"{self.harmless}, fatal={self.fatal}, margin={self.margin}"
            )

    def __call__(self, layers: Iterable[Layer]) -> SearchSpace:
        """Form the space, as `Full.__call__` does.

        Raises:
            ValueError: The file is no sensitivity, or lacks a layer.
        """
        sensitivity = Sensitivity.load(self.path)
        space = _form(layers, lambda layer: self._candidates(layer, sensitivity))
        return replace(space, factorisation=sensitivity.factorisation)

    def _candidates(self, layer: Layer, sensitivity: Sensitivity) -> list[int]:
        ranks, losses = sensitivity.losses(layer)
        # What a rank loses is at least what any larger one does: measurements are noisy, the trend is not.
        losses = np.maximum.accumulate(losses[::-1])[::-1]
        bearable = losses <= self.fatal
        if not bearable.any():
            return []
        ranks, losses = ranks[bearable], losses[bearable]
        lossless = ranks[losses <= self.harmless]
        largest = min(ranks[-1], round(self.margin * lossless[0])) if len(lossless) else ranks[-1]
        losses = np.interp(np.arange(ranks[0], largest + 1), ranks, losses)
        ranks = np.arange(ranks[0], largest + 1)
        if len(ranks) == 1:
            return [int(ranks[0])]
        travelled = np.linspace(0, 1, len(ranks))
        if losses[0] > losses[-1]:
            travelled = (travelled + (losses[0] - losses) / (losses[0] - losses[-1])) / 2
        wanted = np.linspace(0, 1, min(self.count, len(ranks)))
        return [int(rank) for rank in np.rint(np.interp(wanted, travelled, ranks))]


def uniform_ranks(layers: Iterable[Layer], fraction: float) -> dict[str, int]:
    """Return the same fraction (0 to 1) of each layer's break-even rank, rounded, at least 1: the usual baseline."""
    return {layer.name: max(1, round(fraction * layer.break_even)) for layer in layers if layer.break_even}


def _form(layers: Iterable[Layer], ranks_of: Callable[[Layer], Iterable[int]]) -> SearchSpace:
    """Form a space of the layers that have ranks below dense, each in order and without repetition."""
    offered = {layer: sorted(set(ranks_of(layer))) for layer in layers if layer.break_even >= 1}
    return SearchSpace(
        tuple(layer for layer, ranks in offered.items() if ranks),
        tuple((*ranks, layer.max_rank) for layer, ranks in offered.items() if ranks),
    )


def _evenly(break_even: int, count: int) -> list[int]:
    """Return `break_even * i / count` for i = 1..count, rounded half up, at least 1."""
    return [max(1, (2 * i * break_even + count) // (2 * count)) for i in range(1, count + 1)]


def _require_count(name: str, count: int) -> None:
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"search space {name!r}: count must be a whole number of at least 1, got {count!r}")


SEARCH_SPACES: dict[str, Callable[..., Callable[[Iterable[Layer]], SearchSpace]]] = {
    "full": Full,
    "log": Log,
    "explicit": Explicit,
    "sensitivity": Sensitive,
}
"""Name -> class; an object of it makes the search space of a model's layers."""
