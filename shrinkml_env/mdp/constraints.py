"""What a configuration may cost, and how a search is kept within it: one class a way, selected by name.

A budget limits parameters or multiply-adds, as a share of the original's. Both are sums over the layers. Parameters
grow with every rank. Multiply-adds need not: looking a row up in a dense embedding costs nothing, in a factored one it
costs something. So a layer's cheapest candidate is not always its smallest.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from shrinkml_env.mdp.part import Part

__all__ = ["CONSTRAINTS", "Budget", "Clip", "Constraint", "Decrement", "Mask", "Unconstrained"]


class Constraint(Part):
    """Decides which configurations an episode may end with.

    Attributes:
        needs_masks: Whether actions that have no masks are refused.
    """

    needs_masks: ClassVar[bool] = False

    def allowed(self, ranks: tuple[int, ...]) -> NDArray[np.bool_]:
        """Which of the next layer's candidates are allowed after these ranks of the first layers; by default all.

        Shape (candidates,), in ascending order of rank; at least one is True.
        """
        return np.ones(len(self.problem.candidates[len(ranks)]), np.bool_)

    @abstractmethod
    def feasible(self, ranks: Mapping[str, int]) -> bool:
        """Whether a configuration meets the constraint: name of any of the evaluator's layers -> any rank it can have.

        What `ranks` leaves out is dense.
        """

    @abstractmethod
    def slack(self, ranks: tuple[int, ...]) -> float:
        """What the undecided layers may still cost above their cheapest candidates.

        A share of the original's cost, in [0, 1]; 0 as well if the budget can no longer be met, 1 if there is none.
        """

    def apply(self, ranks: tuple[int, ...], wanted: Sequence[int]) -> tuple[int, ...]:
        """Append the wanted ranks of the next layers.

        One that is not allowed is replaced by the largest allowed one below it; by the smallest if all are above it.
        """
        for rank in wanted:
            candidates = self.problem.candidates[len(ranks)]
            allowed = [choice for choice, fits in zip(candidates, self.allowed(ranks).tolist(), strict=True) if fits]
            ranks = (*ranks, allowed[max(0, bisect_right(allowed, rank) - 1)])
        return ranks


class Unconstrained(Constraint):
    """Every configuration is feasible."""

    def feasible(self, ranks: Mapping[str, int]) -> bool:
        """True."""
        return True

    def slack(self, ranks: tuple[int, ...]) -> float:
        """1."""
        return 1.0


@dataclass
class Budget(Constraint):
    """A limit on the cost of the whole model, only checked: ``info["feasible"]`` tells whether it was met.

    Attributes:
        budget: The largest share of the original's cost, in (0, 1].
        resource: The cost: ``"size"`` (parameters) or ``"macs"`` (multiply-adds over the proxy set).
    """

    budget: float
    resource: Literal["size", "macs"] = "size"

    def __post_init__(self) -> None:
        if not isinstance(self.budget, int | float) or not 0 < self.budget <= 1:
            raise ValueError(f"the budget must be a share of the original in (0, 1], got {self.budget!r}")
        if self.resource not in ("size", "macs"):
            raise ValueError(f"resource must be 'size' or 'macs', got {self.resource!r}")

    def _prepare(self) -> None:
        layers, candidates = self.problem.layers, self.problem.candidates
        self._saved: dict[tuple[str, int], int] = {}
        self._original = self._measured_cost({})
        alone = [
            [self._cost({layer.name: rank}) for rank in ranks] for layer, ranks in zip(layers, candidates, strict=True)
        ]
        self._extra = [
            {rank: value - min(costs) for rank, value in zip(ranks, costs, strict=True)}
            for ranks, costs in zip(candidates, alone, strict=True)
        ]
        self._cheapest = self._original - sum(self._original - min(costs) for costs in alone)
        self._limit = math.floor(self.budget * self._original) + 1
        while self._limit / self._original > self.budget:
            self._limit -= 1

    def feasible(self, ranks: Mapping[str, int]) -> bool:
        """Whether the cost is at most the budget."""
        return self._cost(ranks) <= self._limit

    def slack(self, ranks: tuple[int, ...]) -> float:
        """See `Constraint.slack`."""
        return max(0.0, self._left(ranks) / self._original)

    def _cost(self, ranks: Mapping[str, int]) -> int:
        # A sum over the layers, so what each saves can be read off with the others dense, once.
        for choice in ranks.items():
            if choice not in self._saved:
                self._saved[choice] = self._original - self._measured_cost(dict([choice]))
        return self._original - sum(self._saved[choice] for choice in ranks.items())

    def _measured_cost(self, ranks: Mapping[str, int]) -> int:
        evaluator = self.problem.evaluator
        return evaluator.params(ranks) if self.resource == "size" else evaluator.macs(ranks)

    def _left(self, ranks: Sequence[int]) -> int:
        spent = sum(extra[rank] for extra, rank in zip(self._extra, ranks, strict=False))
        return self._limit - self._cheapest - spent


class _Enforced(Budget):
    """A budget that every episode keeps."""

    def _prepare(self) -> None:
        super()._prepare()
        if self._cheapest > self._limit:
            raise ValueError(
                f"constraint: no configuration costs at most {self.budget:g} of the original's {self.resource}; the "
                f"cheapest candidates cost {self._cheapest / self._original:.4f}: raise the budget or give the search "
                "space smaller candidates"
            )


class Clip(_Enforced):
    """Replaces a rank as soon as it is chosen, so that the remaining layers still fit (AMC, arXiv 1802.03494)."""

    def allowed(self, ranks: tuple[int, ...]) -> NDArray[np.bool_]:
        """Those that leave enough for the other layers at their cheapest candidates."""
        # The cheapest candidate costs 0 extra: it is allowed even after ranks that are over the budget already.
        return np.array(list(self._extra[len(ranks)].values())) <= max(0, self._left(ranks))


class Mask(Clip):
    """As `Clip`, for agents that keep to ``action_masks()``: only with actions that have masks."""

    needs_masks = True


class Decrement(_Enforced):
    """Lets the episode choose freely, then makes layers cheaper until the budget is met (HAQ, arXiv 1811.08886).

    Round after round through the layers in forward order, each goes to its next cheaper candidate: one candidate down,
    where costs grow with the rank.
    """

    def apply(self, ranks: tuple[int, ...], wanted: Sequence[int]) -> tuple[int, ...]:
        """As `Constraint.apply`, and after the last layer within the budget."""
        chosen = list(super().apply(ranks, wanted))
        if len(chosen) < len(self._extra):
            return tuple(chosen)
        layers = itertools.cycle(range(len(chosen)))
        while self._left(chosen) < 0:
            layer = next(layers)
            extra = self._extra[layer]
            cheaper = [(cost, rank) for rank, cost in extra.items() if cost < extra[chosen[layer]]]
            if cheaper:
                _, chosen[layer] = max(cheaper)  # of equally expensive ones the largest rank, which loses least
        return tuple(chosen)


CONSTRAINTS: dict[str, Callable[..., Constraint]] = {
    "none": Unconstrained,
    "check": Budget,
    "clip": Clip,
    "mask": Mask,
    "decrement": Decrement,
}
"""Name -> class; all but ``none`` take ``budget`` and ``resource``."""
