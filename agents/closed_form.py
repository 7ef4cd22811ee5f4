"""Ranks in closed form, from gradients: the least predicted damage for each size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from agents.curves import Curve
from agents.rules import require_reachable
from shrinkml_env import Evaluator, SearchProblem
from shrinkml_env.checks import whole_number
from shrinkml_env.data import UtteranceSpec
from shrinkml_env.space import Prediction, largest_within, least_damage, predict_for

__all__ = ["ClosedForm"]

RESOLUTION = 256
"""Sizes between the smallest and the dense model."""


class ClosedForm(Curve):
    """Gives the layers, for each size, the candidates of the least predicted damage in sum.

    The damage is predicted by gradients (`predict_for`), without an evaluation, and shared out by `least_damage`. A
    search goes through the sizes from coarse to fine, beginning with the largest that is allowed; `ranks_of_size`
    measures nothing at all.

    Further rounds predict it again, from the gradients of the model that the round before has given, see
    `least_damage`.

    Args:
        env: As in `EpisodicSearch`.
        calibration: The speech of the gradients, as `load_utterances` takes it; training speech of the model.
        draws: Gradients for each utterance.
        seed: Seed of the draws.
        rounds: Number of predictions, at least 1. All but the first take their gradients for each size anew.

    Raises:
        ValueError: `draws` or `rounds` is not a whole number of at least 1.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | None = None,
        calibration: UtteranceSpec = "calibration-large",
        draws: int = 1,
        seed: int | None = None,
        rounds: int = 1,
    ) -> None:
        super().__init__(env, seed)
        self.calibration = calibration
        self.draws = whole_number("draws", draws, least=1)
        self.rounds = whole_number("rounds", rounds, least=1)
        # The key of the evaluator whose model's damage was predicted first, and the prediction.
        self._first: tuple[str, Prediction] | None = None

    def _prepare(self, problem: SearchProblem) -> None:
        self._predicted(problem)

    def _predicted(self, problem: SearchProblem) -> Prediction:
        """Return the predicted damage in the original, which is the same for all sizes."""
        key = problem.evaluator.key
        if self._first is None or self._first[0] != key:
            self._first = key, self.prediction(problem)
        return self._first[1]

    def prediction(self, problem: SearchProblem, at: Mapping[str, int] | None = None) -> Prediction:
        """Return the predicted damage of a problem's matrices; the evaluator's cache keeps it.

        Args:
            problem: The problem.
            at: Layer name -> rank of the model whose gradients are taken; None takes those of the original.

        Raises:
            ValueError: The problem has a table in place of a model.
        """
        evaluator = problem.evaluator
        if not isinstance(evaluator, Evaluator):
            raise ValueError("agent closed_form needs a model, whose gradients it takes: a table has none")
        return predict_for(evaluator, self.calibration, self.draws, 0 if self.seed is None else self.seed, at)

    def ranks_of_size(self, problem: SearchProblem, size_ratio: float) -> dict[str, int]:
        """Return the allocation of the least predicted damage of at most a size; it takes no evaluation.

        Args:
            problem: The problem: layers, candidates and the model.
            size_ratio: The largest size ratio, in (0, 1].

        Raises:
            ValueError: The smallest configuration is larger, or the problem has a table in place of a model.
        """
        require_reachable(size_ratio, problem.size(problem.search_space.smallest), "model of these candidates")
        self._prepare(problem)
        return self._allocated(problem, self._costs(problem, size_ratio)[1])

    def _at(self, problem: SearchProblem, level: float) -> dict[str, int]:
        """Return the allocation at a level: 0 is the smallest size, 1 the largest that the constraint allows."""
        limit = 1.0 if problem.size_limit is None else problem.size_limit
        smallest, largest = self._costs(problem, limit)
        return self._allocated(problem, smallest + level * (largest - smallest))

    def _costs(self, problem: SearchProblem, size_ratio: float) -> tuple[float, float]:
        """Return the fewest parameters of the layers, and the most at a size, which are at least as many."""
        space = problem.search_space
        smallest, dense = (
            sum(layer.parameters(ranks[layer.name]) for layer in space.layers)
            for ranks in (space.smallest, space.dense)
        )
        total = problem.evaluator.params(problem.search_space.dense)
        return smallest, max(smallest, dense - total + largest_within(size_ratio, total))

    def _allocated(self, problem: SearchProblem, cost: float) -> dict[str, int]:
        """Return the allocation of at most a number of parameters of the layers."""

        def predict(at: Mapping[str, int] | None) -> Prediction:
            return self._predicted(problem) if at is None else self.prediction(problem, at)

        return least_damage(problem.search_space, predict, cost, self.rounds)

    def _resolution(self, problem: SearchProblem) -> int:
        return RESOLUTION
