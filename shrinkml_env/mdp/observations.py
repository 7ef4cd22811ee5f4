"""Observations describe the state of an episode to the agent: one class a kind, selected by name."""

from __future__ import annotations

import itertools
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from shrinkml_env.compression import Layer, kept_energy
from shrinkml_env.mdp.problem import SearchProblem
from shrinkml_env.space.sensitivity import Sensitivity, require_factorisation

__all__ = ["OBSERVATIONS", "FeatureDict", "Features", "Observation"]


class Observation(ABC):
    """A kind of observation of an episode's state.

    Attributes:
        problem: The search problem: layers, candidates, evaluator and constraint.
        space: The observation space, which the constructor of a subclass sets.
    """

    space: spaces.Space[Any]

    def __init__(self, problem: SearchProblem) -> None:
        self.problem = problem

    @abstractmethod
    def __call__(self, ranks: tuple[int, ...]) -> Any:
        """Return the observation after some decisions.

        Args:
            ranks: The ranks of the layers decided so far, in forward order: from none to all layers.

        Returns:
            A new element of `space`.
        """


class _FeatureGroups(Observation):
    """Computes the features that `Features` and `FeatureDict` show, group by group.

    Attributes:
        groups: Group -> the names of its features, in order.
    """

    fractions: ClassVar[dict[str, float]] = {"1/16": 1 / 16, "1/8": 1 / 8, "1/4": 1 / 4, "1/2": 1 / 2, "1": 1.0}
    kinds: ClassVar[tuple[str, ...]] = ("lstm", "gru", "linear", "conv")

    def __init__(
        self,
        problem: SearchProblem,
        activation_error: bool = False,
        sensitivity: bool = False,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        if path is not None and not sensitivity:
            raise ValueError("observation: `path` is the file of the sensitivity, which is off: give sensitivity=True")
        super().__init__(problem)
        layers, search_space = problem.layers, problem.search_space
        self._activation_error, self._sensitivity, self._path = activation_error, sensitivity, path
        self._original = problem.baseline.params
        self._measured = Sensitivity.load(path) if sensitivity else None
        if self._measured is not None:
            require_factorisation(self._measured.factorisation, problem.evaluator.factorisation_name)
        described = [self._describe(layer) for layer in layers]
        params = search_space.tabulate(lambda layer, rank: layer.parameters(rank))
        savings = [max(kept.values()) - min(kept.values()) for kept in params]
        # Element i: the parameters that layers i, i + 1, ... can save; 0 for i = number of layers.
        self._savings = [sum(savings[index:]) for index in range(len(layers) + 1)]
        # For each layer: candidate -> share of its matrices' parameters that it keeps.
        self._kept = [{rank: count / max(kept.values()) for rank, count in kept.items()} for kept in params]
        measured = ("activation_error",) if activation_error else ()
        self.groups: dict[str, tuple[str, ...]] = {
            "layer": tuple(described[0]),
            "episode": ("progress", "size_ratio", "smallest_size_ratio", "slack", "previous_rank", *measured),
            "decided": tuple(f"decided:{layer.name}" for layer in layers),
            "kept": tuple(f"kept:{layer.name}" for layer in layers),
        }
        ends = itertools.accumulate(map(len, self.groups.values()))
        self._slices = {
            name: slice(end - len(names), end) for (name, names), end in zip(self.groups.items(), ends, strict=True)
        }
        # Row i holds the features that follow from the number i of decided layers. The last row describes no layer.
        self._rows = np.zeros((len(layers) + 1, self._slices["kept"].stop))
        self._rows[:-1, self._slices["layer"]] = [list(features.values()) for features in described]
        self._rows[:, self._slices["decided"]] = np.tri(len(layers) + 1, len(layers), -1)
        self.space = self._space()

    @abstractmethod
    def _space(self) -> spaces.Space[Any]:
        """Return the observation space; `groups` is set by then."""

    def _features(self, ranks: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the features of all groups, in order, shape (features,)."""
        problem, layers = self.problem, self.problem.layers
        done = len(ranks)
        params = problem.params_after(ranks)
        episode = [
            done / len(layers),
            params / self._original,
            (params - self._savings[done]) / self._original,
            problem.constraint.slack(ranks),
            ranks[-1] / layers[done - 1].max_rank if done else 1.0,
        ]
        if self._activation_error:
            episode.append(problem.evaluator.activation_error(problem.search_space.named(ranks)))
        features: NDArray[np.float64] = self._rows[done].copy()
        features[self._slices["episode"]] = episode
        start = self._slices["kept"].start
        features[start : start + done] = [kept[rank] for kept, rank in zip(self._kept, ranks, strict=False)]
        return features.clip(0.0, 1.0).astype(np.float32)

    def _describe(self, layer: Layer) -> dict[str, float]:
        """Return the features of one layer, which do not depend on decisions: name -> value."""
        evaluator = self.problem.evaluator
        smallest = {layer.name: self.problem.search_space.smallest[layer.name]}
        recurrent = sum(m.rows * m.columns for m in layer.matrices if m.kind.endswith("_hh"))
        energies = {
            f"energy@{name}": kept_energy(layer, max(1, round(part * layer.break_even)), evaluator.singular_values)
            for name, part in self.fractions.items()
        }
        losses = {}
        if self._measured is not None:
            ranks, wer = self._measured.losses(layer)
            losses = {
                f"loss@{name}": float(np.interp(part * layer.break_even, ranks, wer))
                for name, part in self.fractions.items()
            }
        return {
            **{f"kind={kind}": float(layer.kind == kind) for kind in self.kinds},
            "log_rows": math.log2(max(rows for rows, _ in layer.shapes)) / 24,
            "log_columns": math.log2(max(columns for _, columns in layer.shapes)) / 24,
            "log_matrices": math.log2(len(layer.matrices)) / 8,
            "log_max_rank": math.log2(layer.max_rank) / 24,
            "recurrent_share": recurrent / layer.parameters(layer.max_rank),
            "break_even": layer.break_even / layer.max_rank,
            "param_share": layer.parameters(layer.max_rank) / self._original,
            "mac_share": 1.0 - evaluator.macs(smallest) / self.problem.baseline.macs,
            **energies,
            **losses,
        }


class Features(_FeatureGroups):
    """A vector of named features in [0, 1], float32, none of which costs an evaluation.

    The first ones describe the layer to be decided next; after the last layer they are 0.

    | name | meaning |
    | --- | --- |
    | ``kind=lstm``, ``gru``, ``linear``, ``conv`` | 1 for the layer's kind |
    | ``log_rows``, ``log_columns`` | log2 of the largest m and n of its matrices, over 24 |
    | ``log_matrices`` | log2 of the number of its matrices, over 8 |
    | ``log_max_rank`` | log2 of its `max_rank`, over 24 |
    | ``recurrent_share`` | share of its parameters in W_hh, the matrices between time steps |
    | ``break_even`` | r* over `max_rank` |
    | ``param_share`` | its matrices' share of the original's parameters |
    | ``mac_share`` | share of the original's multiply-adds that its smallest candidate saves; 0 if it saves none |
    | ``energy@1/16``, ``1/8``, ``1/4``, ``1/2``, ``1`` | share of the squared singular values kept at this fraction of r*, mean over its matrices |
    | ``loss@1/16``, ``1/8``, ``1/4``, ``1/2``, ``1`` | only with ``sensitivity=True``: WER lost at this fraction of r* with all other layers dense, at most 1; 0 if nothing is lost |

    Then come the state of the episode and every decision so far, so that the observation is Markov:

    | name | meaning |
    | --- | --- |
    | ``progress`` | layers decided, over all |
    | ``size_ratio`` | size ratio with the undecided layers dense |
    | ``smallest_size_ratio`` | size ratio with the undecided layers at their smallest candidates |
    | ``slack`` | what the constraint leaves for the undecided layers above their cheapest candidates, over the original's cost; 1 where there is none |
    | ``previous_rank`` | rank over `max_rank` of the layer decided last; 1 before the first |
    | ``activation_error`` | only with ``activation_error=True``: relative error behind the layers decided so far (`ActivationError`), at most 1 |
    | ``decided:LAYER`` | for each layer: 1 if it is decided |
    | ``kept:LAYER`` | for each layer: share of its matrices' parameters that it has kept; 0 if undecided |

    Args:
        problem: The search problem.
        activation_error: Whether to measure the error of the activations, which takes time in every step but counts as
            no evaluation.
        sensitivity: Whether to show the WER that each layer loses when it alone is compressed, measured beforehand.
        path: The file of the sensitivity, written by `Sensitivity.save`; None for the embedded model's.
    """  # noqa: E501

    @property
    def names(self) -> tuple[str, ...]:
        """The features' names, in order."""
        return tuple(name for names in self.groups.values() for name in names)

    def _space(self) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (len(self.names),), np.float32)

    def __call__(self, ranks: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the features, shape (len(names),)."""
        return self._features(ranks)


class FeatureDict(_FeatureGroups):
    """The features of `Features` in four boxes: ``layer``, ``episode``, ``decided`` and ``kept``.

    They suit policies with one network for each box, such as Stable-Baselines3's ``MultiInputPolicy``. `groups` names
    each box's features in order. The arguments are those of `Features`.
    """

    def _space(self) -> spaces.Dict:
        return spaces.Dict(
            {group: spaces.Box(0.0, 1.0, (len(names),), np.float32) for group, names in self.groups.items()}
        )

    def __call__(self, ranks: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
        """Return group -> array of shape (len(groups[group]),)."""
        features = self._features(ranks)
        return {group: features[place] for group, place in self._slices.items()}


OBSERVATIONS: dict[str, Callable[..., Observation]] = {"features": Features, "dict": FeatureDict}
"""Name -> class of (problem, options)."""
