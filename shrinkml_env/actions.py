"""How an agent says which rank it wants: one class a kind, selected by name.

A kind translates both ways between actions and ranks. It is configured by its constructor and bound to a problem by
the environment, so that one object may serve several environments.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from shrinkml_env.problem import SearchProblem

__all__ = ["ACTIONS", "ActionKind", "Continuous", "Decision", "Discrete"]


class Decision(NamedTuple):
    """What an action leads to.

    Attributes:
        ranks: The ranks of all layers decided so far, in forward order: longer than before.
        projected: The action asked for what is not allowed and was replaced by the nearest that is.
    """

    ranks: tuple[int, ...]
    projected: bool


class ActionKind(ABC):
    """Translates between actions and ranks.

    A kind that can say which actions are allowed also has ``masks(ranks) -> bool array``.

    Attributes:
        space: The action space; set by `bind`.
        problem: What is searched; set by `bind`.
    """

    space: spaces.Space[Any]
    problem: SearchProblem

    def bind(self, problem: SearchProblem) -> Self:
        """A copy of this kind for one problem."""
        bound = copy.copy(self)
        bound.problem = problem
        bound.space = bound._make_space()
        return bound

    @abstractmethod
    def _make_space(self) -> spaces.Space[Any]:
        """The action space for `problem`."""

    @abstractmethod
    def decode(self, ranks: tuple[int, ...], action: Any) -> Decision:
        """The decision that an action means after these ranks (of the first layers, in forward order).

        Raises:
            ValueError: The action is not in the action space; the message names the layer.
        """

    @abstractmethod
    def encode(self, ranks: tuple[int, ...]) -> Sequence[Any]:
        """The actions of one episode that lead to this configuration: one candidate for each layer."""


class Continuous(ActionKind):
    """One number in [-1, 1], linear in the rank.

    -1 is the layer's smallest candidate and +1 its `max_rank` (dense), with break-even in between; the rank that the
    line gives is replaced by the nearest candidate. float64 is accepted as well as float32.
    """

    def _make_space(self) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (1,), np.float32)

    def decode(self, ranks: tuple[int, ...], action: Any) -> Decision:
        """See `ActionKind.decode`; never projects."""
        index = len(ranks)
        value = np.asarray(action)
        if value.shape != (1,) or value.dtype.kind != "f" or not -1.0 <= value[0] <= 1.0:
            raise ValueError(
                f"layer {self.problem.layers[index].name!r}: the action must be an array of one float in [-1, 1], "
                f"got {action!r}"
            )
        smallest, dense = self._ends(index)
        rank = smallest + (float(value[0]) + 1.0) / 2.0 * (dense - smallest)
        return Decision((*ranks, self.problem.search_space.nearest(index, rank)), projected=False)

    def encode(self, ranks: tuple[int, ...]) -> list[NDArray[np.float32]]:
        """See `ActionKind.encode`; float32 arrays of shape (1,)."""
        actions = []
        for index, rank in enumerate(ranks):
            smallest, dense = self._ends(index)
            actions.append(np.array([2.0 * (rank - smallest) / (dense - smallest) - 1.0], np.float32))
        return actions

    def _ends(self, index: int) -> tuple[int, int]:
        candidates = self.problem.candidates[index]
        return candidates[0], candidates[-1]


class Discrete(ActionKind):
    """The index of a candidate, from the smallest rank (0) to dense.

    The space has as many actions as the layer with the most candidates. An index that a layer lacks is masked but
    legal: it takes the nearest candidate, dense, and counts as projected.
    """

    def _make_space(self) -> spaces.Discrete:
        self._count = max(len(ranks) for ranks in self.problem.candidates)
        return spaces.Discrete(self._count)

    def decode(self, ranks: tuple[int, ...], action: Any) -> Decision:
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
        return Decision((*ranks, candidates[choice]), projected=choice != int(value))

    def encode(self, ranks: tuple[int, ...]) -> list[int]:
        """See `ActionKind.encode`."""
        return [candidates.index(rank) for candidates, rank in zip(self.problem.candidates, ranks, strict=True)]

    def masks(self, ranks: tuple[int, ...]) -> NDArray[np.bool_]:
        """Shape (k,): True for the indices that the next layer has; all True after the last layer."""
        index = len(ranks)
        allowed = len(self.problem.candidates[index]) if index < len(self.problem.layers) else self._count
        return np.arange(self._count) < allowed


ACTIONS: dict[str, Callable[..., ActionKind]] = {"continuous": Continuous, "discrete": Discrete}
"""Name -> class."""
