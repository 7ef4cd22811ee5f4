"""Rewards of a finished configuration: one class a formula, selected by name.

A reward is any callable ``(evaluation, baseline) -> float``. One that also has ``terms(evaluation, baseline)``, a
mapping of named parts, shows them in ``info["reward_terms"]``; one that has a ``space`` gives a vector of that space.

In the formulas e and e0 are the corpus WER of the compressed and of the original model as fractions, and s is the size
ratio. A WER may exceed 1, but every reward stays finite: where a formula asks for an accuracy or a logarithm, e is
clipped to [1 / reference words, 1].

A reward that depends on the divergence from the original instead of the WER has the attribute ``signal =
"divergence"``.

The defaults belong to ``ShrinkML-v0`` and do not change within v0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from shrinkml_env.checks import number
from shrinkml_env.evaluation.result import Evaluation

__all__ = [
    "AMC",
    "REWARDS",
    "Absolute",
    "Accuracy",
    "Divergence",
    "Harmonic",
    "Linear",
    "Multiplicative",
    "Reward",
    "RewardFunction",
    "Signal",
    "SoftThreshold",
    "Threshold",
    "Vector",
    "signal_of",
]

RewardFunction = Callable[[Evaluation, Evaluation], Any]
"""A callable of (evaluation, baseline) that returns a float, or a vector if it has a `space`."""

Signal = Literal["wer", "divergence"]
"""The measure of quality that a reward depends on: the word error rate, or the divergence of the predictions from the
original's (`shrinkml_env.evaluation.mean_divergence`)."""

_ROUNDING = 1e-12
"""Tolerance for rounding when WERs are compared; they are multiples of 1 / reference words, which is far larger."""


class Reward(ABC):
    """A reward that consists of named terms.

    Attributes:
        signal: The measure of quality that it depends on; besides, it may depend on the model's size and cost.
    """

    signal: ClassVar[Signal] = "wer"

    @abstractmethod
    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """Return the parts of the reward: name -> value, always with the same names."""

    def __call__(self, evaluation: Evaluation, baseline: Evaluation) -> float:
        """Return the reward: the sum of the terms, unless a subclass combines them otherwise."""
        return math.fsum(self.terms(evaluation, baseline).values())


@dataclass(frozen=True)
class Linear(Reward):
    """-(e - e0) - size_weight * s: a linear trade-off of WER against size.

    Attributes:
        size_weight: lambda >= 0. At the default, losing 1 % (absolute) of WER is worth 5 % of the model's size.
    """

    size_weight: float = 0.2

    def __post_init__(self) -> None:
        number("reward 'linear': size_weight", self.size_weight, at_least=0)

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """Return ``wer``: -(e - e0), positive where compression helps; ``size``: -size_weight * s."""
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
        number("reward 'threshold': tolerance", self.tolerance, at_least=0)
        number("reward 'threshold': punishment", self.punishment, at_least=0)

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """Return ``size``: 1 - s, or 0 where punished; ``punishment``: -P, or 0 where not."""
        if evaluation.wer <= baseline.wer + self.tolerance + _ROUNDING:
            return {"size": 1.0 - evaluation.size_ratio, "punishment": 0.0}
        return {"size": 0.0, "punishment": -float(self.punishment)}


@dataclass(frozen=True)
class SoftThreshold(Reward):
    """1 - s - kappa * max(0, e - e0 - tolerance): as `Threshold`, with a punishment that grows with the errors.

    Attributes:
        tolerance: eps >= 0, a fraction.
        kappa: Price of an error above the tolerance, >= 0. At the default, one point of WER costs 10 % of the size.
    """

    tolerance: float = 0.005
    kappa: float = 10.0

    def __post_init__(self) -> None:
        number("reward 'soft_threshold': tolerance", self.tolerance, at_least=0)
        number("reward 'soft_threshold': kappa", self.kappa, at_least=0)

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """Return ``size``: 1 - s; ``punishment``: -kappa * max(0, e - e0 - tolerance)."""
        excess = max(0.0, evaluation.wer - baseline.wer - self.tolerance)
        return {"size": 1.0 - evaluation.size_ratio, "punishment": -self.kappa * excess}


@dataclass(frozen=True)
class Accuracy(Reward):
    """-(e - e0): the WER alone, for a search whose constraint limits the size."""

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """Return ``wer``: -(e - e0)."""
        return {"wer": -(evaluation.wer - baseline.wer)}


@dataclass(frozen=True)
class Divergence(Reward):
    """-d - size_weight * s: the divergence d from the original in place of the WER.

    On a few utterances similar models often have the same WER, a ratio of counts; the divergence, a mean of real
    numbers over all units, still tells them apart. It needs a `PredictiveModel`, and a little more time.

    Attributes:
        size_weight: lambda >= 0. The default, 0, needs a constraint that limits the size.
    """

    size_weight: float = 0.0
    signal: ClassVar[Signal] = "divergence"

    def __post_init__(self) -> None:
        number("reward 'divergence': size_weight", self.size_weight, at_least=0)

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """Return ``divergence``: -d, in nats a unit; ``size``: -size_weight * s."""
        if evaluation.divergence is None:
            raise ValueError("reward 'divergence': it has not been measured; give Evaluator(..., divergence=True)")
        return {"divergence": -evaluation.divergence, "size": -self.size_weight * evaluation.size_ratio}


@dataclass(frozen=True)
class AMC(Reward):
    """-e * log(C): the WER times the logarithm of the model's cost C (R_FLOPs of AMC, arXiv 1802.03494).

    e is clipped to [1 / reference words, 1], so that a flawless model still gains from being smaller.

    Attributes:
        cost: C: ``"params"``, or ``"macs"`` over the proxy set.
    """

    cost: Literal["params", "macs"] = "params"

    def __post_init__(self) -> None:
        if self.cost not in ("params", "macs"):
            raise ValueError(f"reward 'amc': cost must be 'params' or 'macs', got {self.cost!r}")

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """Return ``error``: e, clipped; ``log_cost``: log(C). The reward is minus their product."""
        cost = evaluation.params if self.cost == "params" else evaluation.macs
        return {"error": _clipped(evaluation), "log_cost": math.log(cost)}

    def __call__(self, evaluation: Evaluation, baseline: Evaluation) -> float:
        """Return -error * log_cost."""
        terms = self.terms(evaluation, baseline)
        return -terms["error"] * terms["log_cost"]


@dataclass(frozen=True)
class Multiplicative(Reward):
    """(1 - e) * (s / target)^exponent: a soft size target (Tan et al. 2019, MnasNet, arXiv 1807.11626).

    Attributes:
        target: tau, the size ratio aimed at, in (0, 1].
        exponent: w < 0. At the default, halving the model is worth 5 % more accuracy, MnasNet's own trade.
    """

    target: float = 0.4
    exponent: float = -0.07

    def __post_init__(self) -> None:
        number("reward 'multiplicative': target", self.target, above=0, at_most=1)
        number("reward 'multiplicative': exponent", self.exponent, below=0)

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """Return ``accuracy``: 1 - e, clipped; ``size_factor``: (s / target)^exponent. The reward is their product."""
        return {
            "accuracy": 1.0 - _clipped(evaluation),
            "size_factor": (evaluation.size_ratio / self.target) ** self.exponent,
        }

    def __call__(self, evaluation: Evaluation, baseline: Evaluation) -> float:
        """Return accuracy * size_factor."""
        return math.prod(self.terms(evaluation, baseline).values())


@dataclass(frozen=True)
class Absolute(Reward):
    """(1 - e) + beta * abs(s / target - 1): a size to be met exactly (Bender et al. 2020, TuNAS, arXiv 2008.06120).

    Attributes:
        target: tau, the size ratio aimed at, in (0, 1].
        beta: < 0; TuNAS's own value by default.
    """

    target: float = 0.4
    beta: float = -0.07

    def __post_init__(self) -> None:
        number("reward 'absolute': target", self.target, above=0, at_most=1)
        number("reward 'absolute': beta", self.beta, below=0)

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """Return ``accuracy``: 1 - e, clipped; ``size``: beta * abs(s / target - 1)."""
        return {
            "accuracy": 1.0 - _clipped(evaluation),
            "size": self.beta * abs(evaluation.size_ratio / self.target - 1.0),
        }


@dataclass(frozen=True)
class Harmonic(Reward):
    """(1 + beta^2) a c / (beta^2 a + c): the F-measure of the accuracy a = 1 - e and the compression c = 1 - s.

    Van Rijsbergen's F_beta: beta says how many times as important compression is as accuracy.

    Attributes:
        beta: > 0. Below 1, because far more can be lost in size than in words.
    """

    beta: float = 0.25

    def __post_init__(self) -> None:
        number("reward 'harmonic': beta", self.beta, above=0)

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """Return ``accuracy``: 1 - e, clipped; ``compression``: 1 - s. The reward is their F-measure."""
        return {"accuracy": 1.0 - _clipped(evaluation), "compression": 1.0 - evaluation.size_ratio}

    def __call__(self, evaluation: Evaluation, baseline: Evaluation) -> float:
        """Return F_beta of the terms; 0 where both are 0."""
        accuracy, compression = self.terms(evaluation, baseline).values()
        weighted = self.beta**2 * accuracy + compression
        return 0.0 if weighted == 0 else (1 + self.beta**2) * accuracy * compression / weighted


class Vector:
    """[-(e - e0), 1 - s]: both objectives as a vector, for multi-objective learners (MO-Gymnasium's convention).

    Attributes:
        space: ``Box([-inf, 0], [1, 1], (2,), float32)``, the environment's `reward_space`.
    """

    space = spaces.Box(np.array([-np.inf, 0.0], np.float32), np.array([1.0, 1.0], np.float32))

    def terms(self, evaluation: Evaluation, baseline: Evaluation) -> dict[str, float]:
        """Return ``wer``: -(e - e0); ``size``: 1 - s."""
        return {"wer": -(evaluation.wer - baseline.wer), "size": 1.0 - evaluation.size_ratio}

    def __call__(self, evaluation: Evaluation, baseline: Evaluation) -> NDArray[np.float32]:
        """Return the terms, shape (2,)."""
        return np.array(list(self.terms(evaluation, baseline).values()), np.float32)


def signal_of(reward: RewardFunction) -> Signal:
    """Return the signal of a reward: its attribute `signal`, or ``"wer"`` if it has none.

    That of a `functools.partial` is its function's.
    """
    while isinstance(reward, partial) and not hasattr(reward, "signal"):
        reward = reward.func
    signal: Signal = getattr(reward, "signal", "wer")
    return signal


def _clipped(evaluation: Evaluation) -> float:
    return min(1.0, max(1.0 / sum(evaluation.words), evaluation.wer))


REWARDS: dict[str, Callable[..., RewardFunction]] = {
    "linear": Linear,
    "threshold": Threshold,
    "soft_threshold": SoftThreshold,
    "accuracy": Accuracy,
    "divergence": Divergence,
    "amc": AMC,
    "multiplicative": Multiplicative,
    "absolute": Absolute,
    "harmonic": Harmonic,
    "vector": Vector,
}
"""Name -> class."""
