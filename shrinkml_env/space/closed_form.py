"""Ranks in closed form: for a size, those of the least predicted damage in sum."""

from __future__ import annotations

import numpy as np

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


def least_damage(space: SearchSpace, prediction: Prediction, params: int) -> dict[str, int]:
    """Return the configuration of the least predicted damage, see `allocate`.

    Args:
        space: The layers and their candidates.
        prediction: The damage of each layer's matrices.
        params: The largest number of parameters that the space's layers may have together, biases excluded.

    Raises:
        ValueError: Even the smallest candidates have more.
    """
    return space.ranks(allocate(choices_of(space, prediction), params))
