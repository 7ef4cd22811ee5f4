"""Constraints say what a configuration may cost and keep a search within it: one class a way, selected by name.

A budget limits parameters or multiply-adds, as a share of the original's. Both are sums over the layers. Parameters
grow with every rank. Multiply-adds need not: looking a row up in a dense embedding costs nothing, in a factored one it
costs something. So a layer's cheapest candidate is not always its smallest.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from shrinkml_env.checks import number
from shrinkml_env.evaluation.protocol import SupportsEvaluate
from shrinkml_env.space.allocation import largest_within
from shrinkml_env.space.search_space import SearchSpace

__all__ = ["CONSTRAINTS", "Budget", "Clip", "Constraint", "Decrement", "Mask", "Shift", "Unconstrained"]


class Constraint(ABC):
    """Decides which configurations an episode may end with.

    Attributes:
        needs_masks: Whether actions that have no masks are refused.
        evaluator: Counts what a configuration costs.
        search_space: The layers to decide and their candidates.
    """

    needs_masks: ClassVar[bool] = False

    def __init__(self, evaluator: SupportsEvaluate, search_space: SearchSpace) -> None:
        self.evaluator = evaluator
        self.search_space = search_space

    @property
    def changes_decisions(self) -> bool:
        """Whether the constraint may change the agent's decisions, by its own `allowed` or `apply`."""
        kind = type(self)
        return kind.allowed is not Constraint.allowed or kind.apply is not Constraint.apply

    @property
    def size_limit(self) -> float | None:
        """The largest size ratio allowed, in (0, 1]; None where the size is not limited, whatever else is."""
        return None

    def allowed(self, ranks: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return which of the next layer's candidates are allowed after these ranks of the first layers; here all.

        Shape (candidates,), in ascending order of rank; at least one is True.
        """
        return np.ones(len(self.search_space.candidates[len(ranks)]), np.bool_)

    @abstractmethod
    def feasible(self, ranks: Mapping[str, int]) -> bool:
        """Return whether a configuration meets the constraint.

        Args:
            ranks: Name of any of the evaluator's layers -> any rank it can have; what it leaves out is dense.
        """

    @abstractmethod
    def slack(self, ranks: tuple[int, ...]) -> float:
        """Return what the undecided layers may still cost above their cheapest candidates.

        A share of the original's cost, in [0, 1]; 0 as well if the budget can no longer be met, 1 if there is none.
        """

    def apply(self, ranks: tuple[int, ...], wanted: Sequence[int]) -> tuple[int, ...]:
        """Append the wanted ranks of the next layers.

        One that is not allowed is replaced by the largest allowed one below it; by the smallest if all are above it.
        """
        for rank in wanted:
            candidates = self.search_space.candidates[len(ranks)]
            allowed = [choice for choice, fits in zip(candidates, self.allowed(ranks).tolist(), strict=True) if fits]
            ranks = (*ranks, allowed[max(0, bisect_right(allowed, rank) - 1)])
        return ranks


class Unconstrained(Constraint):
    """Every configuration is feasible."""

    def feasible(self, ranks: Mapping[str, int]) -> bool:
        """Return True."""
        return True

    def slack(self, ranks: tuple[int, ...]) -> float:
        """Return 1."""
        return 1.0


class Budget(Constraint):
    """A budget limits the cost of the whole model; it is only checked: ``info["feasible"]`` says whether it was met.

    Attributes:
        budget: The largest share of the original's cost, in (0, 1].
        resource: The cost: ``"size"`` (parameters) or ``"macs"`` (multiply-adds over the proxy set).
        enforced: Whether every episode keeps the budget.

    Raises:
        ValueError: The budget or the resource is none; or no configuration can keep a budget that is enforced.
    """

    enforced: ClassVar[bool] = False

    def __init__(
        self,
        evaluator: SupportsEvaluate,
        search_space: SearchSpace,
        budget: float,
        resource: Literal["size", "macs"] = "size",
    ) -> None:
        budget = number("the budget", budget, above=0, at_most=1, meaning="a share of the original")
        if resource not in ("size", "macs"):
            raise ValueError(f"resource must be 'size' or 'macs', got {resource!r}")
        super().__init__(evaluator, search_space)
        self.budget = budget
        self.resource = resource
        self._saved: dict[tuple[str, int], int] = {}
        self._original = self._measured_cost({})
        alone = search_space.tabulate(lambda layer, rank: self._cost({layer.name: rank}))
        # For each layer: candidate -> cost above that of its cheapest one.
        self._extra = [{rank: cost - min(costs.values()) for rank, cost in costs.items()} for costs in alone]
        self._cheapest = self._original - sum(self._original - min(costs.values()) for costs in alone)
        self._limit = largest_within(budget, self._original)
        if self.enforced and self._cheapest > self._limit:
            raise ValueError(
                f"constraint: no configuration costs at most {budget:g} of the original's {resource}; the cheapest "
                f"candidates cost {self._cheapest / self._original:.4f}: raise the budget or give the search space "
                "smaller candidates"
            )

    @property
    def size_limit(self) -> float | None:
        """The budget, if it is one of parameters."""
        return self.budget if self.resource == "size" else None

    def feasible(self, ranks: Mapping[str, int]) -> bool:
        """Return whether the cost is at most the budget."""
        return self._cost(ranks) <= self._limit

    def slack(self, ranks: tuple[int, ...]) -> float:
        """Return what is left, as `Constraint.slack` says."""
        return max(0.0, self._left(ranks) / self._original)

    def _cost(self, ranks: Mapping[str, int]) -> int:
        # A sum over the layers, so what each saves can be read off with the others dense, once.
        try:
            return self._original - sum(map(self._saved.__getitem__, ranks.items()))
        except KeyError:
            for choice in ranks.items() - self._saved.keys():
                self._saved[choice] = self._original - self._measured_cost(dict([choice]))
            return self._cost(ranks)

    def _measured_cost(self, ranks: Mapping[str, int]) -> int:
        return self.evaluator.params(ranks) if self.resource == "size" else self.evaluator.macs(ranks)

    def _left(self, ranks: Sequence[int]) -> int:
        spent = sum(extra[rank] for extra, rank in zip(self._extra, ranks, strict=False))
        return self._limit - self._cheapest - spent


class Clip(Budget):
    """Replaces a rank as soon as it is chosen, so that the remaining layers still fit (AMC, arXiv 1802.03494)."""

    enforced = True

    def allowed(self, ranks: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return which candidates leave enough for the other layers at their cheapest ones."""
        # The cheapest candidate costs 0 extra: it is allowed even after ranks that are over the budget already.
        return np.array(list(self._extra[len(ranks)].values())) <= max(0, self._left(ranks))


class Mask(Clip):
    """As `Clip`, for agents that keep to ``action_masks()``: only with actions that have masks."""

    needs_masks = True


class Decrement(Budget):
    """Lets the episode choose freely, then makes layers cheaper until the budget is met (HAQ, arXiv 1811.08886).

    Round after round through the layers in forward order, each goes to its next cheaper candidate: one candidate down,
    where costs grow with the rank.
    """

    enforced = True

    def apply(self, ranks: tuple[int, ...], wanted: Sequence[int]) -> tuple[int, ...]:
        """Append ranks as `Constraint.apply` does, and after the last layer come within the budget."""
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


class Shift(Budget):
    """Lets the episode choose freely, then moves all layers by the same number of levels, up or down, to the budget.

    For search spaces with levels (`SearchSpace.levels`). The layers' differences stay as they were chosen, but for
    layers that reach the smallest or the largest level, and the episode ends at the budget whatever was chosen: the
    number of levels is the largest within it. A layer whose candidate stands at several levels counts as standing at
    the middle one of these. Then single layers rise, in forward order and one level at a time, as
    long as what is left of the budget suffices for one.

    Raises:
        ValueError: As `Budget`; or the search space has no levels.
    """

    enforced = True

    def __init__(
        self,
        evaluator: SupportsEvaluate,
        search_space: SearchSpace,
        budget: float,
        resource: Literal["size", "macs"] = "size",
    ) -> None:
        super().__init__(evaluator, search_space, budget, resource)
        self._levels = search_space.ranks_at_levels

    def apply(self, ranks: tuple[int, ...], wanted: Sequence[int]) -> tuple[int, ...]:
        """Append ranks as `Constraint.apply` does, and after the last layer shift them all."""
        chosen = super().apply(ranks, wanted)
        if len(chosen) < len(self._levels):
            return chosen
        places = self.search_space.places(self.search_space.named(chosen))
        levels = [self.search_space.level_of(index, place) for index, place in enumerate(places)]
        top = self.search_space.top_level
        for shift in range(top, -top - 1, -1):
            shifted = [min(max(level + shift, 0), top) for level in levels]
            if self._fits(shifted):
                return tuple(self._ranks(self._filled(shifted)))
        # Costs that do not rise with the rank: the cheapest candidates fit, the smallest ones do not.
        return tuple(min(extra, key=lambda rank: (extra[rank], -rank)) for extra in self._extra)

    def _filled(self, levels: list[int]) -> list[int]:
        """Raise single layers, round after round, while one can rise."""
        rising = True
        while rising:
            rising = False
            for index, level in enumerate(levels):
                if level < self.search_space.top_level:
                    levels[index] += 1
                    if self._fits(levels):
                        rising = True
                    else:
                        levels[index] = level
        return levels

    def _fits(self, levels: Sequence[int]) -> bool:
        return self._left(self._ranks(levels)) >= 0

    def _ranks(self, levels: Sequence[int]) -> list[int]:
        return [ranks[level] for ranks, level in zip(self._levels, levels, strict=True)]


CONSTRAINTS: dict[str, Callable[..., Constraint]] = {
    "none": Unconstrained,
    "check": Budget,
    "clip": Clip,
    "mask": Mask,
    "decrement": Decrement,
    "shift": Shift,
}
"""Name -> class of (evaluator, search space, options); all but ``none`` take ``budget`` and ``resource``."""
