"""What a configuration may cost, and how a search is kept within it: one class a way, selected by name.

A budget limits parameters or multiply-adds, as a share of the original's. Both grow with every rank, so that what a
budget allows of a layer's candidates is always the smallest few.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from shrinkml_env.part import Part

__all__ = ["CONSTRAINTS", "Budget", "Clip", "Constraint", "Decrement", "Mask", "Unconstrained"]


class Constraint(Part):
    """Decides which configurations an episode may end with.

    Attributes:
        masks: Whether what is not allowed is also masked; then the actions must have masks.
    """

    masks: ClassVar[bool] = False

    @abstractmethod
    def allowed(self, ranks: tuple[int, ...]) -> int:
        """How many of the next layer's candidates are allowed after these ranks, from the smallest; at least 1."""

    @abstractmethod
    def feasible(self, ranks: tuple[int, ...]) -> bool:
        """Whether a complete configuration meets the constraint."""

    @abstractmethod
    def slack(self, ranks: tuple[int, ...]) -> float:
        """What the undecided layers may still cost above their smallest candidates.

        A share of the original's cost, in [0, 1]; 0 as well if the budget can no longer be met, 1 if there is none.
        """

    def apply(self, ranks: tuple[int, ...], wanted: Sequence[int]) -> tuple[int, ...]:
        """Append the wanted ranks of the next layers, each replaced by the largest one allowed if it is larger."""
        for rank in wanted:
            candidates = self.problem.candidates[len(ranks)]
            ranks = (*ranks, min(rank, candidates[self.allowed(ranks) - 1]))
        return ranks


class Unconstrained(Constraint):
    """Every configuration is feasible."""

    def allowed(self, ranks: tuple[int, ...]) -> int:
        """All of them."""
        return len(self.problem.candidates[len(ranks)])

    def feasible(self, ranks: tuple[int, ...]) -> bool:
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
        if not 0 < self.budget <= 1:
            raise ValueError(f"the budget must be a share of the original in (0, 1], got {self.budget!r}")
        if self.resource not in ("size", "macs"):
            raise ValueError(f"resource must be 'size' or 'macs', got {self.resource!r}")

    def _prepare(self) -> None:
        layers, candidates = self.problem.layers, self.problem.candidates
        evaluator = self.problem.evaluator
        cost = {"size": evaluator.params, "macs": evaluator.macs}[self.resource]
        self._original = cost({})
        # The cost is a sum over the layers, so a candidate's part of it can be read off with the others dense.
        alone = [[cost({layer.name: rank}) for rank in ranks] for layer, ranks in zip(layers, candidates, strict=True)]
        self._extra = [
            {rank: value - costs[0] for rank, value in zip(ranks, costs, strict=True)}
            for ranks, costs in zip(candidates, alone, strict=True)
        ]
        self._smallest = self._original - sum(self._original - costs[0] for costs in alone)
        self._limit = math.floor(self.budget * self._original) + 1
        while self._limit / self._original > self.budget:
            self._limit -= 1

    def allowed(self, ranks: tuple[int, ...]) -> int:
        """All of them."""
        return len(self.problem.candidates[len(ranks)])

    def feasible(self, ranks: tuple[int, ...]) -> bool:
        """Whether the cost is at most the budget."""
        return self._left(ranks) >= 0

    def slack(self, ranks: tuple[int, ...]) -> float:
        """See `Constraint.slack`."""
        return max(0.0, self._left(ranks) / self._original)

    def _left(self, ranks: tuple[int, ...]) -> int:
        spent = sum(extra[rank] for extra, rank in zip(self._extra, ranks, strict=False))
        return self._limit - self._smallest - spent


class _Enforced(Budget):
    """A budget that every episode keeps."""

    def _prepare(self) -> None:
        super()._prepare()
        if self._smallest > self._limit:
            raise ValueError(
                f"constraint: no configuration costs at most {self.budget:g} of the original's {self.resource}; the "
                f"smallest candidates cost {self._smallest / self._original:.4f}: raise the budget or give the search "
                "space smaller candidates"
            )


class Clip(_Enforced):
    """Lowers a rank as soon as it is chosen, so that the remaining layers still fit (AMC, arXiv 1802.03494)."""

    def allowed(self, ranks: tuple[int, ...]) -> int:
        """Those that leave enough for the other layers at their smallest candidates."""
        left = self._left(ranks)
        return max(1, sum(extra <= left for extra in self._extra[len(ranks)].values()))


class Mask(Clip):
    """As `Clip`, and ``action_masks()`` is False for what would be lowered."""

    masks = True


class Decrement(_Enforced):
    """Lets the episode choose freely, then lowers ranks until the budget is met (HAQ, arXiv 1811.08886).

    Round after round through the layers in forward order, each goes down by one candidate.
    """

    def apply(self, ranks: tuple[int, ...], wanted: Sequence[int]) -> tuple[int, ...]:
        """As `Constraint.apply`, and after the last layer within the budget."""
        ranks = super().apply(ranks, wanted)
        offered = self.problem.candidates
        if len(ranks) < len(offered):
            return ranks
        indices = [candidates.index(rank) for candidates, rank in zip(offered, ranks, strict=True)]
        layer = 0
        while not self.feasible(ranks):
            indices[layer] = max(0, indices[layer] - 1)
            ranks = tuple(candidates[index] for candidates, index in zip(offered, indices, strict=True))
            layer = (layer + 1) % len(indices)
        return ranks


CONSTRAINTS: dict[str, Callable[..., Constraint]] = {
    "none": Unconstrained,
    "check": Budget,
    "clip": Clip,
    "mask": Mask,
    "decrement": Decrement,
}
"""Name -> class; all but ``none`` take ``budget`` and ``resource``."""
