"""Ranks in closed form: for a size, those of the least predicted damage in sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from shrinkml_env.checks import whole_number
from shrinkml_env.space.allocation import Choices, allocate
from shrinkml_env.space.prediction import Prediction
from shrinkml_env.space.search_space import SearchSpace

__all__ = ["choices_of", "least_damage"]


def choices_of(space: SearchSpace, prediction: Prediction) -> list[Choices]:
    """Return each layer's candidates as choices: their parameters as cost, and their predicted damage."""
    costs = space.tabulate(lambda layer, rank: layer.parameters(rank))
    damages = space.tabulate(prediction.of)
    return [
        Choices(np.array(list(cost.values()), float), np.array(list(damage.values())))
        for cost, damage in zip(costs, damages, strict=True)
    ]


def least_damage(
    space: SearchSpace,
    predict: Callable[[Mapping[str, int] | None], Prediction],
    params: float,
    rounds: int = 1,
) -> dict[str, int]:
    """Return the configuration of the least predicted damage, see `allocate`.

    In a second round the damage is predicted once more, from the gradients of the model that the first has given, and
    the configuration is that of the least geometric mean of both predictions; in a third that of three, and so on.

    Args:
        space: The layers and their candidates.
        predict: Returns the damage of each layer's matrices, from the gradients of the model of a configuration, or
            with None from those of the original; see `predict_damage`.
        params: The largest number of parameters that the space's layers may have together, biases excluded.
        rounds: Number of predictions, at least 1.

    Raises:
        ValueError: Even the smallest candidates have more, or `rounds` is not a whole number of at least 1.
    """
    rounds = whole_number("rounds", rounds, least=1)
    predictions = [predict(None)]

    def least() -> dict[str, int]:
        return space.ranks(allocate(choices_of(space, Prediction.mean(predictions)), params))

    for _ in range(1, rounds):
        predictions.append(predict(least()))
    return least()
