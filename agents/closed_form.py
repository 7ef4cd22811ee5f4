"""Ranks in closed form, from gradients: the least predicted damage for each size."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from agents.curves import Curve
from shrinkml_env import Evaluator, SearchProblem
from shrinkml_env.checks import whole_number
from shrinkml_env.data.sets import UtteranceSpec
from shrinkml_env.space.allocation import Choices, allocate
from shrinkml_env.space.closed_form import choices_of
from shrinkml_env.space.prediction import Prediction, predicted_damage

__all__ = ["ClosedForm"]

RESOLUTION = 256
"""Sizes between the smallest and the dense model."""


class ClosedForm(Curve):
    """Gives the layers, for each size, the candidates of the least predicted damage in sum.

    The damage is predicted by gradients (`predicted_damage`), without an evaluation, and shared out by `allocate`. A
    search goes through the sizes from coarse to fine, beginning with the largest that is allowed; `ranks_of_size`
    measures nothing at all.

    Args:
        env: As in `EpisodicSearch`.
        calibration: The speech of the gradients, as `load_utterances` takes it; training speech of the model.
        draws: Gradients for each utterance.
        seed: Seed of the draws.

    Raises:
        ValueError: `draws` is not a whole number of at least 1.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | None = None,
        calibration: UtteranceSpec = "calibration-large",
        draws: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__(env, seed)
        self.calibration = calibration
        self.draws = whole_number("draws", draws, least=1)
        self._known: tuple[object, list[Choices]] | None = None

    def _prepare(self, problem: SearchProblem) -> None:
        key = problem.evaluator.key, problem.search_space
        if self._known is not None and self._known[0] == key:
            return
        self._known = key, choices_of(problem.search_space, self.prediction(problem))

    def prediction(self, problem: SearchProblem) -> Prediction:
        """Return the predicted damage of a problem's matrices; the evaluator's cache keeps it.

        Raises:
            ValueError: The problem has a table in place of a model.
        """
        evaluator = problem.evaluator
        if not isinstance(evaluator, Evaluator):
            raise ValueError("agent closed_form needs a model, whose gradients it takes: a table has none")
        return predicted_damage(evaluator, self.calibration, self.draws, 0 if self.seed is None else self.seed)

    def _at(self, problem: SearchProblem, level: float) -> dict[str, int]:
        assert self._known is not None
        _, choices = self._known
        smallest = sum(float(choice.cost[0]) for choice in choices)
        largest = sum(float(choice.cost[-1]) for choice in choices)
        if problem.size_limit is not None:
            over = problem.evaluator.params(problem.search_space.dense) * (1 - problem.size_limit)
            largest = max(smallest, min(largest, largest - over))
        places = allocate(choices, smallest + level * (largest - smallest))
        return problem.search_space.ranks(places)

    def _resolution(self, problem: SearchProblem) -> int:
        return RESOLUTION
