"""Search spaces of predicted damage: their candidates lie at levels that all layers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from shrinkml_env.checks import number, whole_number
from shrinkml_env.compression.layers import Layer
from shrinkml_env.data.sets import UtteranceSpec
from shrinkml_env.evaluation.evaluator import Evaluator
from shrinkml_env.space.allocation import Choices, at_price
from shrinkml_env.space.prediction import Prediction, predict_for
from shrinkml_env.space.search_space import SearchSpace

__all__ = ["Allocated", "LevelSpace", "Predicted", "space_of_levels"]


class LevelSpace(ABC):
    """A search space that is formed for an evaluator, from the damage predicted for its layers."""

    calibration: UtteranceSpec
    draws: int

    def of(self, evaluator: Any) -> SearchSpace:
        """Form the space; the prediction takes gradients once, and later comes from the evaluator's cache.

        Raises:
            ValueError: The evaluator has no model whose gradients could be taken, no layer is left, or as
                `predict_for`.
            FileNotFoundError: The folder of the speech is missing.
        """
        if not isinstance(evaluator, Evaluator):
            raise ValueError(
                "a search space of predicted damage needs a model, whose gradients it takes: a table has its own space"
            )
        prediction = predict_for(evaluator, self.calibration, self.draws)
        layers = [layer for layer in evaluator.layers if layer.break_even >= 1]
        return space_of_levels(layers, [self._ranks(layer, prediction, evaluator) for layer in layers])

    @abstractmethod
    def _ranks(self, layer: Layer, prediction: Prediction, evaluator: Evaluator) -> Sequence[int]:
        """Return a layer's ranks at the levels below dense, from the smallest model on."""


@dataclass(frozen=True, slots=True)
class Predicted(LevelSpace):
    """Levels of equal predicted damage, and dense.

    With p(r) the divergence that a layer alone is predicted to cause at rank r (`predict_damage`), its candidates are
    the smallest ranks with p(r) <= d for `count` values of d, even in log d. A layer that has no such rank stays dense.

    Attributes:
        low: The smallest d, nats a unit, > 0.
        high: The largest d, > low.
        count: The number of levels besides dense, at least 2.
        calibration: The speech of the gradients, as `load_utterances` takes it; training speech of the model.
        draws: Gradients for each utterance.
    """

    low: float = 1e-5
    high: float = 0.1
    count: int = 24
    calibration: UtteranceSpec = "calibration"
    draws: int = 3

    def __post_init__(self) -> None:
        _check("predicted", self.low, self.high, self.count, self.draws)

    def _ranks(self, layer: Layer, prediction: Prediction, evaluator: Evaluator) -> list[int]:
        ranks = [*range(1, layer.break_even + 1), layer.max_rank]
        damage = np.array([prediction.of(layer, rank) for rank in ranks])
        return [ranks[int((damage <= limit).argmax())] for limit in np.geomspace(self.high, self.low, self.count)]


@dataclass(frozen=True, slots=True)
class Allocated(LevelSpace):
    """Levels of equal worth, and dense: at each, the closed-form ranks of one price (`allocate`).

    A layer's candidates are the ranks of least p(r) + price * s(r), with p(r) as in `Predicted` and s(r) the parameters
    of the layer's matrices at this rank as a share of the original model's, for `count` prices even in their logarithm.
    So every level is the allocation of least predicted damage for its size, and steps away from it trade layers off
    against each other.

    Attributes:
        low: The lowest price, nats a unit for a whole model, > 0.
        high: The highest price, > low.
        count: The number of levels besides dense, at least 2.
        calibration: As `Predicted`, and so is `draws`.
    """

    low: float = 1e-3
    high: float = 10.0
    count: int = 48
    calibration: UtteranceSpec = "calibration"
    draws: int = 3

    def __post_init__(self) -> None:
        _check("allocated", self.low, self.high, self.count, self.draws)

    def _ranks(self, layer: Layer, prediction: Prediction, evaluator: Evaluator) -> list[int]:
        ranks = [*range(1, layer.break_even + 1), layer.max_rank]
        choices = Choices(
            np.array([layer.parameters(rank) for rank in ranks]) / evaluator.original_params,
            np.array([prediction.of(layer, rank) for rank in ranks]),
        )
        places = [at_price(choices, price) for price in np.geomspace(self.high, self.low, self.count)]
        # Where two choices are as good, rounding must not turn the order of two levels.
        return [ranks[place] for place in accumulate(places, max)]


def space_of_levels(layers: Sequence[Layer], ranks: Sequence[Sequence[int]]) -> SearchSpace:
    """Return the space of layers whose ranks at the common levels are known; those that are always dense are left out.

    Args:
        layers: In forward order.
        ranks: For each of them its ranks at the levels below dense, never falling.

    Raises:
        ValueError: No layer is left.
    """
    chosen, candidates, levels = [], [], []
    for layer, at_levels in zip(layers, ranks, strict=True):
        wanted = sorted({*at_levels, layer.max_rank})
        if len(wanted) > 1:
            chosen.append(layer)
            candidates.append(tuple(wanted))
            levels.append((*(wanted.index(rank) for rank in at_levels), len(wanted) - 1))
    return SearchSpace(tuple(chosen), tuple(candidates), levels=tuple(levels))


def _check(name: str, low: float, high: float, count: int, draws: int) -> None:
    low = number(f"search space {name!r}: low", low, above=0)
    number(f"search space {name!r}: high", high, above=low)
    whole_number(f"search space {name!r}: count", count, least=2)
    whole_number(f"search space {name!r}: draws", draws, least=1)
