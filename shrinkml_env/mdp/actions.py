"""How an agent says which rank it wants: one class a kind, selected by name.

A kind translates both ways between actions and ranks. What the constraint makes of a wish is the constraint's business.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from shrinkml_env.compression import kept_energy
from shrinkml_env.mdp.part import Part

__all__ = ["ACTIONS", "ActionKind", "Continuous", "Delta", "Discrete", "Energy", "OneShot", "Wish"]


class Wish(NamedTuple):
    """What an action asks for.

    Attributes:
        ranks: Candidates of the next layers, in forward order: at least one.
        projected: The action asked for something that is no candidate at all, and this is the nearest one.
    """

    ranks: tuple[int, ...]
    projected: bool = False


class ActionKind(Part):
    """Translates between actions and ranks.

    A kind that can say which actions are allowed also has ``masks(ranks) -> bool array``.

    Attributes:
        space: The action space; set by `bind`.
    """

    space: spaces.Space[Any]

    @abstractmethod
    def decode(self, ranks: tuple[int, ...], action: Any) -> Wish:
        """What an action asks for after these ranks (of the first layers, in forward order).

        Raises:
            ValueError: The action is not in the action space; the message names the layer.
        """

    @abstractmethod
    def encode(self, ranks: tuple[int, ...]) -> Sequence[Any]:
        """The actions of one episode that ask for this configuration: one candidate for each layer."""


class _Number(ActionKind):
    """One number in [-1, 1]. float64 is accepted as well as float32."""

    def _prepare(self) -> None:
        self.space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def decode(self, ranks: tuple[int, ...], action: Any) -> Wish:
        """See `ActionKind.decode`."""
        value = np.asarray(action)
        if value.shape != (1,) or value.dtype.kind != "f" or not -1.0 <= value[0] <= 1.0:
            raise ValueError(
                f"layer {self.problem.layers[len(ranks)].name!r}: the action must be an array of one float in [-1, 1], "
                f"got {action!r}"
            )
        return Wish((self._rank(ranks, float(value[0])),))

    def encode(self, ranks: tuple[int, ...]) -> list[NDArray[np.float32]]:
        """See `ActionKind.encode`; float32 arrays of shape (1,)."""
        return [np.array([self._value(ranks[:index], rank)], np.float32) for index, rank in enumerate(ranks)]

    @abstractmethod
    def _rank(self, ranks: tuple[int, ...], value: float) -> int:
        """The next layer's candidate that a number means."""

    @abstractmethod
    def _value(self, ranks: tuple[int, ...], rank: int) -> float:
        """A number that means this candidate of the next layer."""

    def _fraction(self, index: int, rank: int) -> float:
        """0 for the layer's smallest candidate to 1 for dense, linear in the rank."""
        smallest, *_, dense = self.problem.candidates[index]
        return (rank - smallest) / (dense - smallest)

    def _at_fraction(self, index: int, fraction: float) -> int:
        """The candidate nearest to a fraction."""
        smallest, *_, dense = self.problem.candidates[index]
        return self.problem.search_space.nearest(index, smallest + fraction * (dense - smallest))


class Continuous(_Number):
    """Linear in the rank.

    -1 is the layer's smallest candidate and +1 its `max_rank` (dense), with break-even in between; the rank that the
    line gives is replaced by the nearest candidate.
    """

    def _rank(self, ranks: tuple[int, ...], value: float) -> int:
        return self._at_fraction(len(ranks), (value + 1.0) / 2.0)

    def _value(self, ranks: tuple[int, ...], rank: int) -> float:
        return 2.0 * self._fraction(len(ranks), rank) - 1.0


class Delta(_Number):
    """A step away from the layer before.

    The number is added to the fraction (0 for the smallest candidate to 1 for dense, linear in the rank) that the
    previous layer has been given, 1 before the first; the sum is clipped to [0, 1] and leads to the nearest candidate.
    """

    def _rank(self, ranks: tuple[int, ...], value: float) -> int:
        return self._at_fraction(len(ranks), min(1.0, max(0.0, self._previous(ranks) + value)))

    def _value(self, ranks: tuple[int, ...], rank: int) -> float:
        return self._fraction(len(ranks), rank) - self._previous(ranks)

    def _previous(self, ranks: tuple[int, ...]) -> float:
        return self._fraction(len(ranks) - 1, ranks[-1]) if ranks else 1.0


class Energy(_Number):
    """A threshold on the spectrum: (a + 1) / 2 is the share of the squared singular values that must be kept.

    The layer takes its smallest candidate that keeps as much (`kept_energy`: the mean over its matrices). So -1 is the
    smallest candidate and +1 is dense.
    """

    def _prepare(self) -> None:
        super()._prepare()
        self._energies = [
            [kept_energy(layer, rank, self.problem.evaluator.singular_values) for rank in ranks[:-1]]
            for layer, ranks in zip(self.problem.layers, self.problem.candidates, strict=True)
        ]

    def _rank(self, ranks: tuple[int, ...], value: float) -> int:
        energies = self._energies[len(ranks)]
        # At +1 nothing but dense will do, even if an earlier candidate loses nothing.
        index = len(energies) if value == 1.0 else bisect_left(energies, (value + 1.0) / 2.0)
        return self.problem.candidates[len(ranks)][index]

    def _value(self, ranks: tuple[int, ...], rank: int) -> float:
        index = self.problem.candidates[len(ranks)].index(rank)
        # Halfway between the energies of two candidates, as far as possible from where rounding matters.
        bounds = [0.0, *self._energies[len(ranks)], 1.0]
        value = float(np.float32(bounds[index] + bounds[index + 1] - 1.0))
        if self._rank(ranks, value) != rank:
            raise ValueError(
                f"layer {self.problem.layers[len(ranks)].name!r}: no energy threshold leads to rank {rank}, because a "
                "smaller candidate keeps as much energy"
            )
        return value


class Discrete(ActionKind):
    """The index of a candidate, from the smallest rank (0) to dense.

    The space has as many actions as the layer with the most candidates. An index that a layer lacks, or whose
    candidate the constraint does not allow, is masked but legal. Here the first takes the nearest candidate, dense, and
    counts as projected; the constraint sees to the second.
    """

    def _prepare(self) -> None:
        self._count = max(len(ranks) for ranks in self.problem.candidates)
        self.space = spaces.Discrete(self._count)

    def decode(self, ranks: tuple[int, ...], action: Any) -> Wish:
        """See `ActionKind.decode`."""
        index = len(ranks)
        value = np.asarray(action)
        if value.shape != () or value.dtype.kind not in "iu" or not 0 <= value < self._count:
            raise ValueError(
                f"layer {self.problem.layers[index].name!r}: the action must be an integer in 0..{self._count - 1}, "
                f"got {action!r}"
            )
        candidates = self.problem.candidates[index]
        choice = min(int(value), len(candidates) - 1)
        return Wish((candidates[choice],), projected=choice != int(value))

    def encode(self, ranks: tuple[int, ...]) -> list[int]:
        """See `ActionKind.encode`."""
        return [candidates.index(rank) for candidates, rank in zip(self.problem.candidates, ranks, strict=True)]

    def masks(self, ranks: tuple[int, ...]) -> NDArray[np.bool_]:
        """Shape (k,): True for the candidates that the next layer has and the constraint allows.

        All True after the last layer.
        """
        index = len(ranks)
        if index == len(self.problem.layers):
            return np.ones(self._count, np.bool_)
        masks = np.zeros(self._count, np.bool_)
        masks[: len(self.problem.candidates[index])] = self.problem.constraint.allowed(ranks)
        return masks


class OneShot(ActionKind):
    """The whole configuration in one step: for each layer the index of a candidate, from the smallest rank to dense."""

    def _prepare(self) -> None:
        self.space = spaces.MultiDiscrete([len(ranks) for ranks in self.problem.candidates])

    def decode(self, ranks: tuple[int, ...], action: Any) -> Wish:
        """See `ActionKind.decode`; the ranks of all layers."""
        value = np.asarray(action)
        counts = [len(candidates) for candidates in self.problem.candidates]
        if value.shape != (len(counts),) or value.dtype.kind not in "iu":
            raise ValueError(
                f"layers {self.problem.layers[0].name!r} to {self.problem.layers[-1].name!r}: the action must be "
                f"{len(counts)} integers, got {action!r}"
            )
        for layer, count, index in zip(self.problem.layers, counts, value.tolist(), strict=True):
            if not 0 <= index < count:
                raise ValueError(f"layer {layer.name!r}: the action must be an integer in 0..{count - 1}, got {index}")
        return Wish(tuple(ranks[index] for ranks, index in zip(self.problem.candidates, value.tolist(), strict=True)))

    def encode(self, ranks: tuple[int, ...]) -> list[NDArray[np.int64]]:
        """See `ActionKind.encode`; one array."""
        indices = [candidates.index(rank) for candidates, rank in zip(self.problem.candidates, ranks, strict=True)]
        return [np.array(indices, np.int64)]


ACTIONS: dict[str, Callable[..., ActionKind]] = {
    "continuous": Continuous,
    "discrete": Discrete,
    "energy": Energy,
    "delta": Delta,
    "one_shot": OneShot,
}
"""Name -> class."""
