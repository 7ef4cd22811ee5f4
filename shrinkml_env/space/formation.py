"""The formation of search spaces: one class a way to choose each layer's candidates, selected by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shrinkml_env.checks import whole_number
from shrinkml_env.compression.layers import Layer
from shrinkml_env.space.level_spaces import Allocated, LevelSpace, Predicted
from shrinkml_env.space.search_space import SearchSpace
from shrinkml_env.space.sensitivity import Sensitivity

__all__ = ["SEARCH_SPACES", "Explicit", "Full", "Log", "Sensitive"]


@dataclass(frozen=True, slots=True)
class Full:
    """The default: ranks spread evenly up to break-even, and dense.

    Attributes:
        count: Ranks below dense, at least 1, spaced by about r*/count; a layer with a smaller r* has all of 1..r*.

    Raises:
        ValueError: `count` is not a whole number of at least 1.
    """

    count: int = 24

    def __post_init__(self) -> None:
        # Kept as an int: NumPy's small integers overflow in products with ranks.
        object.__setattr__(self, "count", whole_number("search space 'full': count", self.count, least=1))

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
        count: Ranks below dense, at least 1; fewer where rounding makes some equal.

    Raises:
        ValueError: `count` is not a whole number of at least 1.
    """

    count: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole_number("search space 'log': count", self.count, least=1))

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
        count: The largest number of ranks below dense, at least 1.
        fatal: WER lost, a fraction > 0.
        harmless: WER lost that counts as nothing, a fraction >= 0.
        margin: >= 1.

    Raises:
        ValueError: A number is out of range.
    """

    path: str | os.PathLike[str] | None = None
    count: int = 16
    fatal: float = 0.2
    harmless: float = 0.003
    margin: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole_number("search space 'sensitivity': count", self.count, least=1))
        if not (self.fatal > self.harmless >= 0 and self.margin >= 1):
            raise ValueError(
                f"search space 'sensitivity': 0 <= harmless < fatal and margin >= 1 must hold, got harmless="
                f"{self.harmless}, fatal={self.fatal}, margin={self.margin}"
            )

    def __call__(self, layers: Iterable[Layer]) -> SearchSpace:
        """Form the space, as `Full.__call__` does.

        Raises:
            ValueError: The file is not a sensitivity file, or lacks a layer.
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


SEARCH_SPACES: dict[str, Callable[..., Callable[[Iterable[Layer]], SearchSpace] | LevelSpace]] = {
    "full": Full,
    "log": Log,
    "explicit": Explicit,
    "sensitivity": Sensitive,
    "predicted": Predicted,
    "allocated": Allocated,
}
"""Name -> class; an object of it makes the search space of a model's layers, a `LevelSpace` that of an evaluator."""
