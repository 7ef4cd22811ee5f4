"""What a finished configuration is worth.

A reward is any callable ``(evaluation, baseline) -> float``. One that also has ``terms(evaluation, baseline)``, a
mapping of named parts, shows them in ``info["reward_terms"]``. In the formulas e and e0 are the corpus WER of the
compressed and of the original model as fractions, and s is the size ratio. A WER may exceed 1; rewards stay finite.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from shrinkml_env.evaluation.result import Evaluation

__all__ = ["REWARDS", "Linear", "Reward", "RewardFunction", "Threshold"]

RewardFunction = Callable[[Evaluation, Evaluation], float]
"""What the environment asks of a reward."""


class Reward(ABC):
    """A reward made of named terms."""

    @abstractmethod
    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """The parts of the reward; the same names every time."""

    def __call__(self, evaluation: Evaluation, baseline: Evaluation) -> float:
        """The sum of the terms."""
        return math.fsum(self.terms(evaluation, baseline).values())


@dataclass(frozen=True)
class Linear(Reward):
    """-(e - e0) - size_weight * s: every point of WER has its price in size.

    Attributes:
        size_weight: lambda >= 0. At the default, losing 1 % (absolute) of WER is worth 10 % of the model's size.
    """

    size_weight: float = 0.1

    def __post_init__(self) -> None:
        _require_non_negative("linear", "size_weight", self.size_weight)

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """``wer``: -(e - e0), positive where compression helps; ``size``: -size_weight * s."""
        return {
            "wer": -(evaluation.wer - baseline.wer),
            "size": -self.size_weight * evaluation.size_ratio,
        }


@dataclass(frozen=True)
class Threshold(Reward):
    """1 - s if e <= e0 + tolerance, else -punishment: the smallest model among those that are good enough.

    Attributes:
        tolerance: eps >= 0, a fraction: 0.005 allows half a point of WER.
        punishment: P >= 0.
    """

    tolerance: float = 0.005
    punishment: float = 1.0

    def __post_init__(self) -> None:
        _require_non_negative("threshold", "tolerance", self.tolerance)
        _require_non_negative("threshold", "punishment", self.punishment)

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """``size``: 1 - s, or 0 where punished; ``punishment``: -P, or 0 where not."""
        # The slack is rounding only: a WER is a multiple of 1 / reference words, far coarser than this.
        if evaluation.wer <= baseline.wer + self.tolerance + 1e-12:
            return {"size": 1.0 - evaluation.size_ratio, "punishment": 0.0}
        return {"size": 0.0, "punishment": -float(self.punishment)}


def _require_non_negative(reward: str, option: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"reward {reward!r}: {option} must be a finite number of at least 0, got {value!r}")


REWARDS: dict[str, Callable[..., RewardFunction]] = {"linear": Linear, "threshold": Threshold}
"""Name -> class."""
