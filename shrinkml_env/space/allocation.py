"""Ranks in closed form: the least predicted damage for a size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Choices", "allocate", "at_price"]


@dataclass(frozen=True)
class Choices:
    """The choices of one layer.

    Attributes:
        cost: (choices,): numbers stored, or whatever else is limited; ascending.
        damage: (choices,): what each costs in accuracy, at least 0.
    """

    cost: np.ndarray
    damage: np.ndarray

    def __post_init__(self) -> None:
        if self.cost.ndim != 1 or self.cost.shape != self.damage.shape or not len(self.cost):
            raise ValueError(
                f"a cost and a damage for each choice are needed, got {self.cost.shape}, {self.damage.shape}"
            )


def largest_within(share: float, total: int) -> int:
    """Return the largest whole cost that is at most a share of a total."""
    cost = math.floor(share * total) + 1
    # A share of k / total allows k, whatever the product is rounded to.
    while cost / total > share:
        cost -= 1
    return cost


def allocate(layers: Sequence[Choices], limit: float) -> list[int]:
    """Return for each layer the index of a choice, so that the damages' sum is least and the costs' sum within a limit.

    For a multiplier t each layer takes its choice of least damage + t cost; the smallest t that keeps to the limit
    is found by bisection (Everett 1963), which is exact where the damages are convex in the cost. What is left of the
    limit is spent on the single steps that save most damage for their cost.

    Args:
        layers: Each layer's choices.
        limit: The costs' sum is at most this.

    Raises:
        ValueError: Even the cheapest choices exceed the limit.
    """
    least = sum(float(layer.cost.min()) for layer in layers)
    if least > limit:
        raise ValueError(f"the cheapest choices of all layers cost {least:,.0f}, more than the limit of {limit:,.0f}")
    low, high = -40.0, 40.0  # Logarithms of the multiplier.
    for _ in range(100):
        middle = (low + high) / 2
        if _cost(layers, _best(layers, middle)) > limit:
            low = middle
        else:
            high = middle
    chosen = _best(layers, high)
    if _cost(layers, chosen) > limit:
        chosen = [int(layer.cost.argmin()) for layer in layers]
    left = limit - _cost(layers, chosen)
    while True:
        steps = [step for index, layer in enumerate(layers) if (step := _step(layer, chosen[index], left, index))]
        if not steps:
            return chosen
        _, index, choice = max(steps)
        left -= float(layers[index].cost[choice] - layers[index].cost[chosen[index]])
        chosen[index] = choice


def at_price(layer: Choices, price: float) -> int:
    """Return the index of a layer's choice of least damage + price * cost; of several, the cheapest."""
    return int((layer.damage + price * layer.cost).argmin())


def _best(layers: Sequence[Choices], log_multiplier: float) -> list[int]:
    multiplier = float(np.exp(log_multiplier))
    return [at_price(layer, multiplier) for layer in layers]


def _cost(layers: Sequence[Choices], chosen: Sequence[int]) -> float:
    return sum(float(layer.cost[choice]) for layer, choice in zip(layers, chosen, strict=True))


def _step(layer: Choices, choice: int, left: float, index: int) -> tuple[float, int, int] | None:
    """Return a layer's step that saves most for its cost: (damage saved for each unit, the layer's index, choice)."""
    more = layer.cost - layer.cost[choice]
    saved = layer.damage[choice] - layer.damage
    possible = np.flatnonzero((more <= left) & (saved > 0))
    if not len(possible):
        return None
    with np.errstate(divide="ignore"):
        worth = np.where(more[possible] > 0, saved[possible] / more[possible], np.inf)
    best = int(worth.argmax())
    return float(worth[best]), index, int(possible[best])
