"""Actions are how an agent says which rank it wants: one class a kind, selected by name.

A kind translates both ways between actions and ranks. The constraint may change the ranks that an action requests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from shrinkml_env.checks import number
from shrinkml_env.compression import kept_energy
from shrinkml_env.mdp.problem import SearchProblem

__all__ = [
    "ACTIONS",
    "ActionKind",
    "Continuous",
    "Delta",
    "Discrete",
    "Energy",
    "IndependentActions",
    "Level",
    "MaskedActions",
    "OneShot",
    "RankRequest",
]

Value = TypeVar("Value", float, NDArray[np.float64])


class RankRequest(NamedTuple):
    """The ranks that an action requests, before the constraint is applied.

    Attributes:
        ranks: Candidates of the next layers, in forward order: at least one.
        projected: Whether the action requested a rank that is not a candidate, so that the nearest one replaces it.
    """

    ranks: tuple[int, ...]
    projected: bool = False


class ActionKind(ABC):
    """Translates between actions and ranks.

    Attributes:
        problem: Has the layers, the candidates and the constraint.
        space: The action space, which the constructor of a subclass sets.
    """

    space: spaces.Space[Any]

    def __init__(self, problem: SearchProblem) -> None:
        self.problem = problem

    @abstractmethod
    def decode(self, ranks: tuple[int, ...], action: Any) -> RankRequest:
        """Return what an action asks for after these ranks (of the first layers, in forward order).

        Raises:
            ValueError: The action is not in the action space; the message names the layer.
        """

    @abstractmethod
    def encode(self, ranks: tuple[int, ...]) -> Sequence[Any]:
        """Return the actions of one episode that ask for this configuration: one candidate for each layer."""

    @property
    def steps(self) -> int:
        """The number of actions in an episode: one for each layer, unless a subclass decides several at once."""
        return len(self.problem.layers)


class IndependentActions(ActionKind):
    """Actions whose meaning depends on the layer alone, not on the ranks of the layers before.

    A *place* is the index of a candidate among those of its layer.
    """

    @abstractmethod
    def place(self, index: int, action: Any) -> tuple[int, bool]:
        """Return the place of the candidate of a layer that an action leads to, and whether it asked for another rank.

        Raises:
            ValueError: The action is not in the action space; the message names the layer.
        """

    @abstractmethod
    def places(self, index: int, actions: NDArray[Any]) -> NDArray[np.int64]:
        """Return the places of the candidates of one layer that N actions, stacked, lead to, shape (N,).

        Raises:
            ValueError: An action is not in the action space.
        """

    def decode(self, ranks: tuple[int, ...], action: Any) -> RankRequest:
        """Decode an action, as `ActionKind.decode` says."""
        place, projected = self.place(len(ranks), action)
        return RankRequest((self.problem.candidates[len(ranks)][place],), projected)


class MaskedActions(ActionKind):
    """Actions of which it can be said beforehand which ones are allowed."""

    @abstractmethod
    def masks(self, ranks: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return which actions are allowed after these ranks of the first layers, shape (actions,)."""


ROUNDING = 1e-6
"""How far a number may lie outside [-1, 1]: wrappers that rescale actions in float32 overshoot by as much."""


class _Number(ActionKind):
    """One number in [-1, 1]. float64 is accepted as well as float32, and so is what `ROUNDING` puts outside."""

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self.space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def _number(self, index: int, action: Any) -> float:
        """Return the number in [-1, 1] that an action for a layer is."""
        array = action if isinstance(action, np.ndarray) else np.asarray(action)
        if array.shape == (1,) and array.dtype.kind == "f":
            value = float(array[0])
            if abs(value) <= 1.0 + ROUNDING:
                return min(1.0, max(-1.0, value))
        raise ValueError(
            f"layer {self.problem.layers[index].name!r}: the action must be an array of one float in [-1, 1], "
            f"got {action!r}"
        )

    def _numbers(self, index: int, actions: NDArray[Any]) -> NDArray[np.float64]:
        """Return the numbers of many actions for a layer; shape (N, 1) -> (N,)."""
        values = np.asarray(actions)
        of_floats = values.dtype.kind == "f" and values.ndim == 2 and values.shape[1] == 1
        if not of_floats or not (np.abs(values) <= 1.0 + ROUNDING).all():
            raise ValueError(
                f"layer {self.problem.layers[index].name!r}: an action is outside [-1, 1], or no array of one float"
            )
        return values[:, 0].astype(np.float64).clip(-1.0, 1.0)

    def encode(self, ranks: tuple[int, ...]) -> list[NDArray[np.float32]]:
        """Encode a configuration in float32 arrays of shape (1,)."""
        return [np.array([self._value(ranks[:index], rank)], np.float32) for index, rank in enumerate(ranks)]

    @abstractmethod
    def _value(self, ranks: tuple[int, ...], rank: int) -> float:
        """Return a number that means this candidate of the next layer."""

    def _fraction(self, index: int, rank: int) -> float:
        """Return 0 for the layer's smallest candidate to 1 for dense, linear in the rank."""
        smallest, *_, dense = self.problem.candidates[index]
        return (rank - smallest) / (dense - smallest)


class _IndependentNumber(IndependentActions, _Number):
    """A number whose meaning depends on the layer alone."""

    def place(self, index: int, action: Any) -> tuple[int, bool]:
        """Return the place that a number leads to, as `IndependentActions.place` says; it never asks for another."""
        return self._place(index, self._number(index, action)), False

    def places(self, index: int, actions: NDArray[Any]) -> NDArray[np.int64]:
        """Return the places of many actions, as `IndependentActions.places` says; shape (N, 1) -> (N,)."""
        return self._places(index, self._numbers(index, actions))

    @abstractmethod
    def _place(self, index: int, value: float) -> int:
        """Return the place of the candidate that a number in [-1, 1] means for a layer."""

    @abstractmethod
    def _places(self, index: int, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the places of several numbers, (N,) -> (N,)."""


class Continuous(_IndependentNumber):
    """Linear in the rank.

    -1 is the layer's smallest candidate and +1 its `max_rank` (dense), with break-even in between; the rank that the
    line gives is replaced by the nearest candidate, of two the smaller.
    """

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        # Up to here, halfway to the next one, a candidate is the nearest to a rank.
        self._bounds = [[(low + high) / 2 for low, high in pairwise(ranks)] for ranks in problem.candidates]
        self._ends = [(ranks[0], ranks[-1]) for ranks in problem.candidates]

    def _place(self, index: int, value: float) -> int:
        return bisect_left(self._bounds[index], self._wanted(index, value))

    def _places(self, index: int, values: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.searchsorted(self._bounds[index], self._wanted(index, values), side="left")

    def _value(self, ranks: tuple[int, ...], rank: int) -> float:
        return 2.0 * self._fraction(len(ranks), rank) - 1.0

    def _wanted(self, index: int, value: Value) -> Value:
        """Return the rank, whole or not, at a number in [-1, 1], or the ranks at several."""
        smallest, dense = self._ends[index]
        return smallest + (value + 1.0) / 2.0 * (dense - smallest)


class Delta(_Number):
    """A step away from the layer before.

    The number is added to the fraction (0 for the smallest candidate to 1 for dense, linear in the rank) that the
    previous layer has been given, 1 before the first; the sum is clipped to [0, 1] and leads to the nearest candidate.
    """

    def decode(self, ranks: tuple[int, ...], action: Any) -> RankRequest:
        """Decode a number, as `ActionKind.decode` says."""
        index = len(ranks)
        fraction = min(1.0, max(0.0, self._previous(ranks) + self._number(index, action)))
        smallest, *_, dense = self.problem.candidates[index]
        return RankRequest((self.problem.search_space.nearest(index, smallest + fraction * (dense - smallest)),))

    def _value(self, ranks: tuple[int, ...], rank: int) -> float:
        return self._fraction(len(ranks), rank) - self._previous(ranks)

    def _previous(self, ranks: tuple[int, ...]) -> float:
        return self._fraction(len(ranks) - 1, ranks[-1]) if ranks else 1.0


class Energy(_IndependentNumber):
    """A threshold on the spectrum: (a + 1) / 2 is the share of the squared singular values that must be kept.

    The layer takes its smallest candidate that keeps as much (`kept_energy`: the mean over its matrices). So -1 is the
    smallest candidate and +1 is dense.
    """

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        values = problem.evaluator.singular_values
        energies = problem.search_space.tabulate(lambda layer, rank: kept_energy(layer, rank, values))
        # For each layer those of its candidates below dense.
        self._energies = [list(of_layer.values())[:-1] for of_layer in energies]

    def _place(self, index: int, value: float) -> int:
        energies = self._energies[index]
        # At +1 nothing but dense will do, even if an earlier candidate loses nothing.
        return len(energies) if value == 1.0 else bisect_left(energies, (value + 1.0) / 2.0)

    def _places(self, index: int, values: NDArray[np.float64]) -> NDArray[np.int64]:
        energies = self._energies[index]
        return np.where(values == 1.0, len(energies), np.searchsorted(energies, (values + 1.0) / 2.0, side="left"))

    def _value(self, ranks: tuple[int, ...], rank: int) -> float:
        index = self.problem.candidates[len(ranks)].index(rank)
        # Halfway between the energies of two candidates, as far as possible from where rounding matters.
        bounds = [0.0, *self._energies[len(ranks)], 1.0]
        value = float(np.float32(bounds[index] + bounds[index + 1] - 1.0))
        if self._place(len(ranks), value) != index:
            raise ValueError(
                f"layer {self.problem.layers[len(ranks)].name!r}: no energy threshold leads to rank {rank}, because a "
                "smaller candidate keeps as much energy, or nearly as much"
            )
        return value


class Level(_IndependentNumber):
    """A step away from a common level, for search spaces with levels (`SearchSpace.levels`).

    0 for every layer is the configuration that has all layers at the common level, and the layer takes its candidate at
    the level nearest to common + a * max(1, span * (number of levels - 1)). The common level is the largest whose
    configuration meets the constraint; the middle one, if all do.

    Args:
        problem: As `ActionKind`.
        span: How far from the common level -1 and 1 are, as a share of all levels, in (0, 1]; at least one level.

    Raises:
        ValueError: The search space has no levels, or `span` is out of range.
    """

    def __init__(self, problem: SearchProblem, span: float = 0.1) -> None:
        super().__init__(problem)
        self.span = span = number("action 'level': span", span, above=0, at_most=1, meaning="a share of all levels")
        space = problem.search_space
        self._top = space.top_level
        self._reach = max(1.0, span * self._top)  # with less, most actions would change nothing
        met = [level for level in range(self._top + 1) if problem.is_feasible(space.at_level(level))]
        self.common = self._top // 2 if len(met) > self._top else max(met, default=0)
        assert space.levels is not None  # otherwise there is no `top_level`
        self._at = [np.array(places) for places in space.levels]

    def _place(self, index: int, value: float) -> int:
        wanted = round(self.common + value * self._reach)
        return int(self._at[index][min(max(wanted, 0), self._top)])

    def _places(self, index: int, values: NDArray[np.float64]) -> NDArray[np.int64]:
        # NumPy rounds halves to even numbers, as `round` does.
        wanted = np.rint(self.common + values * self._reach).astype(np.int64)
        places: NDArray[np.int64] = self._at[index][wanted.clip(0, self._top)]
        return places

    def _value(self, ranks: tuple[int, ...], rank: int) -> float:
        index = len(ranks)
        candidates = self.problem.candidates[index]
        # Of the levels with this rank the one that is nearest to the common one.
        levels = [level for level, place in enumerate(self._at[index]) if candidates[place] == rank]
        if levels:
            value = (min(levels, key=lambda level: abs(level - self.common)) - self.common) / self._reach
            # What lies just beyond the end still rounds to this level.
            value = min(max(value, -1.0), 1.0)
            if candidates[self._place(index, value)] == rank:
                return value
        raise ValueError(
            f"layer {self.problem.layers[len(ranks)].name!r}: no action leads to rank {rank}: it lies more than "
            f"{self._reach:g} levels from the common level {self.common}, or at no level; raise the action's span"
        )


class Discrete(IndependentActions, MaskedActions):
    """The index of a candidate, from the smallest rank (0) to dense.

    The space has as many actions as the layer with the most candidates. An index that a layer lacks, or whose
    candidate the constraint does not allow, is masked but legal. Here the first takes the nearest candidate, dense, and
    counts as projected; the constraint sees to the second.
    """

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._count = max(problem.search_space.counts)
        self._last = [count - 1 for count in problem.search_space.counts]
        self.space = spaces.Discrete(self._count)

    def place(self, index: int, action: Any) -> tuple[int, bool]:
        """Return an index, or the last one of a layer that has fewer candidates, as `IndependentActions.place` says."""
        # An array is made only of what is not an integer yet: it would take most of a tabular step's time.
        value = action if type(action) is int or isinstance(action, np.integer) else np.asarray(action)
        whole = isinstance(value, int) or (value.shape == () and value.dtype.kind in "iu")
        if not whole or not 0 <= value < self._count:
            raise ValueError(
                f"layer {self.problem.layers[index].name!r}: the action must be an integer in 0..{self._count - 1}, "
                f"got {action!r}"
            )
        wanted = int(value)
        place = min(wanted, self._last[index])
        return place, place != wanted

    def places(self, index: int, actions: NDArray[Any]) -> NDArray[np.int64]:
        """Return the places of many actions, as `IndependentActions.places` says; shape (N,) -> (N,)."""
        values = np.asarray(actions)
        if values.ndim != 1 or values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= self._count:
            raise ValueError(
                f"layer {self.problem.layers[index].name!r}: an action is outside 0..{self._count - 1}, or no integer"
            )
        places: NDArray[np.int64] = np.minimum(values.astype(np.int64), self._last[index])
        return places

    def encode(self, ranks: tuple[int, ...]) -> list[int]:
        """Encode a configuration in its places."""
        space = self.problem.search_space
        return list(space.places(space.named(ranks)))

    def masks(self, ranks: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return True for the candidates that the next layer has and the constraint allows, shape (k,).

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

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self.space = spaces.MultiDiscrete(list(problem.search_space.counts))

    @property
    def steps(self) -> int:
        """One action is the whole episode."""
        return 1

    def decode(self, ranks: tuple[int, ...], action: Any) -> RankRequest:
        """Decode the ranks of all layers."""
        value = np.asarray(action)
        layers, space = self.problem.layers, self.problem.search_space
        if value.shape != (len(layers),) or value.dtype.kind not in "iu":
            raise ValueError(
                f"layers {layers[0].name!r} to {layers[-1].name!r}: the action must be {len(layers)} integers, got "
                f"{action!r}"
            )
        for index in np.flatnonzero((value < 0) | (value >= space.counts)):
            raise ValueError(
                f"layer {layers[index].name!r}: the action must be an integer in 0..{space.counts[index] - 1}, got "
                f"{value[index]}"
            )
        return RankRequest(tuple(space.ranks(value.tolist()).values()))

    def encode(self, ranks: tuple[int, ...]) -> list[NDArray[np.int64]]:
        """Encode a configuration in one array of its places."""
        space = self.problem.search_space
        return [np.array(space.places(space.named(ranks)), np.int64)]


ACTIONS: dict[str, Callable[..., ActionKind]] = {
    "continuous": Continuous,
    "discrete": Discrete,
    "energy": Energy,
    "delta": Delta,
    "level": Level,
    "one_shot": OneShot,
}
"""Name -> class of (problem, options)."""
