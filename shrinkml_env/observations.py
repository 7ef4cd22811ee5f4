"""What an agent sees before each decision: one class a kind, selected by name."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from shrinkml_env.compression.layers import Layer
from shrinkml_env.problem import SearchProblem

__all__ = ["OBSERVATIONS", "Features", "Observation"]


class Observation(ABC):
    """Describes the state of an episode.

    Configured by its constructor and bound to a problem by the environment, so that one object may serve several.

    Attributes:
        space: The observation space; set by `bind`.
        problem: What is searched; set by `bind`.
    """

    space: spaces.Space[Any]
    problem: SearchProblem

    def bind(self, problem: SearchProblem) -> Self:
        """A copy for one problem, with everything computed that no decision changes."""
        bound = copy.copy(self)
        bound.problem = problem
        bound.space = bound._prepare()
        return bound

    @abstractmethod
    def _prepare(self) -> spaces.Space[Any]:
        """Compute what `__call__` needs and return the observation space for `problem`."""

    @abstractmethod
    def __call__(self, ranks: tuple[int, ...]) -> Any:
        """A new observation after these ranks of the first layers, in forward order; defined after the last, too."""


class Features(Observation):
    """A vector of named features in [0, 1], float32, none of which costs an evaluation.

    The first ones describe the layer to be decided next; after the last layer they are 0.

    | name | meaning |
    | --- | --- |
    | ``kind=lstm``, ``gru``, ``linear``, ``conv`` | 1 for the layer's kind |
    | ``log_rows``, ``log_columns`` | log2 of the largest m and n of its matrices, over 24 |
    | ``log_matrices`` | log2 of the number of its matrices, over 8 |
    | ``log_max_rank`` | log2 of its `max_rank`, over 24 |
    | ``break_even`` | r* over `max_rank` |
    | ``param_share`` | its matrices' share of the original's parameters |
    | ``mac_share`` | share of the original's multiply-adds that its smallest candidate saves |
    | ``energy@1/16``, ``1/8``, ``1/4``, ``1/2``, ``1`` | share of the squared singular values kept at this fraction of r*, mean over its matrices |

    Then come the state of the episode and every decision so far, so that the observation is Markov:

    | name | meaning |
    | --- | --- |
    | ``progress`` | layers decided, over all |
    | ``size_ratio`` | size ratio with the undecided layers dense |
    | ``smallest_size_ratio`` | size ratio with the undecided layers at their smallest candidates |
    | ``previous_kept`` | share of its parameters that the layer decided last has kept; 1 before the first |
    | ``decided:LAYER`` | for each layer: 1 if it is decided |
    | ``kept:LAYER`` | for each layer: share of its matrices' parameters that it has kept; 0 if undecided |

    Attributes:
        names: The features' names, in order; set by `bind`.
    """  # noqa: E501

    fractions: tuple[tuple[str, float], ...] = (
        ("1/16", 1 / 16),
        ("1/8", 1 / 8),
        ("1/4", 1 / 4),
        ("1/2", 1 / 2),
        ("1", 1),
    )
    kinds: tuple[str, ...] = ("lstm", "gru", "linear", "conv")
    names: tuple[str, ...]

    def _prepare(self) -> spaces.Box:
        layers = self.problem.layers
        self._original = self.problem.baseline.params
        described = [self._describe(index) for index in range(len(layers))]
        # One more row: after the last layer there is none to describe.
        self._static = np.zeros((len(layers) + 1, len(described[0])))
        self._static[:-1] = [list(features.values()) for features in described]
        dense = np.array([layer.parameters(layer.max_rank) for layer in layers], dtype=np.float64)
        smallest = [layer.parameters(ranks[0]) for layer, ranks in zip(layers, self.problem.candidates, strict=True)]
        self._dense = dense
        # What the layers from the i-th on can still save; 0 after the last.
        self._savings = np.append(np.cumsum((dense - smallest)[::-1])[::-1], 0.0)
        self.names = (
            *described[0],
            *("progress", "size_ratio", "smallest_size_ratio", "previous_kept"),
            *(f"decided:{layer.name}" for layer in layers),
            *(f"kept:{layer.name}" for layer in layers),
        )
        return spaces.Box(0.0, 1.0, (len(self.names),), np.float32)

    def __call__(self, ranks: tuple[int, ...]) -> NDArray[np.float32]:
        """Shape (len(names),)."""
        layers = self.problem.layers
        done = len(ranks)
        stored = np.array([layer.parameters(rank) for layer, rank in zip(layers, ranks, strict=False)])
        kept = np.zeros(len(layers))
        kept[:done] = stored / self._dense[:done]
        size = self._original - float(np.sum(self._dense[:done] - stored))
        state = (
            done / len(layers),
            size / self._original,
            (size - self._savings[done]) / self._original,
            kept[done - 1] if done else 1.0,
        )
        decided = np.arange(len(layers)) < done
        features = np.concatenate([self._static[done], state, decided, kept])
        observation: NDArray[np.float32] = np.clip(features, 0.0, 1.0).astype(np.float32)
        return observation

    def _describe(self, index: int) -> dict[str, float]:
        """The features of one layer, which no decision changes."""
        layer = self.problem.layers[index]
        evaluator = self.problem.evaluator
        smallest = {layer.name: self.problem.candidates[index][0]}
        macs = self.problem.baseline.macs
        return {
            **{f"kind={kind}": float(layer.kind == kind) for kind in self.kinds},
            "log_rows": math.log2(max(rows for rows, _ in layer.shapes)) / 24,
            "log_columns": math.log2(max(columns for _, columns in layer.shapes)) / 24,
            "log_matrices": math.log2(len(layer.matrices)) / 8,
            "log_max_rank": math.log2(layer.max_rank) / 24,
            "break_even": layer.break_even / layer.max_rank,
            "param_share": layer.parameters(layer.max_rank) / self._original,
            "mac_share": 1.0 - evaluator.macs(smallest) / macs,
            **{f"energy@{name}": self._energy(layer, fraction) for name, fraction in self.fractions},
        }

    def _energy(self, layer: Layer, fraction: float) -> float:
        """Share of the squared singular values kept at a fraction of break-even; a matrix that stays dense keeps 1."""
        rank = max(1, round(fraction * layer.break_even))
        kept = [
            _kept_energy(self.problem.evaluator.singular_values[matrix.name], rank) if matrix.is_factored(rank) else 1.0
            for matrix in layer.matrices
        ]
        return sum(kept) / len(kept)


def _kept_energy(singular_values: Tensor, rank: int) -> float:
    energy = singular_values.detach().double().square().cpu().numpy()
    total = float(energy.sum())
    return float(energy[:rank].sum()) / total if total > 0 else 1.0


OBSERVATIONS: dict[str, Callable[..., Observation]] = {"features": Features}
"""Name -> class."""
