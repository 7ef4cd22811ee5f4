import numpy as np
import pytest

from shrinkml_env.space import Prediction, SearchSpace, least_damage
from tests.helpers.fake_evaluator import linear

LAYERS = linear("a", 100, 64), linear("b", 100, 64)
SPACE = SearchSpace(LAYERS, ((10, 20, 64), (10, 20, 64)))
ENOUGH = 30 * (100 + 64)
"""Parameters of one layer of rank 10 and one of rank 20."""

A, B = {"a": 20, "b": 10}, {"a": 10, "b": 20}
"""What the parameters are enough for."""


def prediction(a, b):
    """Return damage for a rank of 10 of either layer, 1 for a rank of 20, and 0 for dense layers."""
    damage = {name: np.zeros(65) for name in "ab"}
    for name, value in (("a", a), ("b", b)):
        damage[name][:20], damage[name][20:64] = value, 1
    return Prediction({matrix.name: damage[layer.name] for layer in LAYERS for matrix in layer.matrices})


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (6, A),  # The mean of b, sqrt(2 * 6) = 3.5, is below that of a, 4, though 6 alone is above.
        (10, B),  # sqrt(2 * 10) = 4.5 is above.
    ],
)
def test_the_second_round_counts_by_the_geometric_mean(second, expected):
    asked = []

    def predict(at):
        asked.append(at)
        return prediction(4, 2) if at is None else prediction(4, second)

    assert least_damage(SPACE, predict, ENOUGH) == A
    assert least_damage(SPACE, predict, ENOUGH, rounds=2) == expected
    assert asked == [None, None, A]


def test_the_third_round_begins_with_the_second_ones_model():
    asked = []

    def predict(at):
        asked.append(at)
        return {1: prediction(4, 2), 2: prediction(4, 10), 3: prediction(4, 1)}[len(asked)]

    # (2 * 10 * 1)^(1/3) = 2.7 is below 4 again.
    assert least_damage(SPACE, predict, ENOUGH, rounds=3) == A
    assert asked == [None, A, B]


@pytest.mark.parametrize("rounds", [0, 1.5, "2"])
def test_rounds_must_be_a_whole_number(rounds):
    with pytest.raises(ValueError, match="rounds must be a whole number of at least 1, got"):
        least_damage(SPACE, lambda at: prediction(1, 1), ENOUGH, rounds)
