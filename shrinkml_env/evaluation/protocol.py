"""The part of an evaluator that searches need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from shrinkml_env.compression.layers import Layer
from shrinkml_env.data.utterance import Utterance
from shrinkml_env.evaluation.evaluator import Evaluator
from shrinkml_env.evaluation.result import Evaluation

__all__ = ["SupportsEvaluate"]


class SupportsEvaluate(Protocol):
    """The part of an `Evaluator` that searches need; ranks may be partial, and what they leave out is dense."""

    @property
    def key(self) -> str:
        """The hash of all that a measurement depends on but the ranks; equal keys mean equal measurements."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The model's layers at the chosen granularity, in forward order."""

    @property
    def factorisation_name(self) -> str:
        """The name of the way in which matrices are factored: `Factorisation.name`."""

    @property
    def baseline(self) -> Evaluation:
        """The original model, all layers dense."""

    @property
    def singular_values(self) -> Mapping[str, Tensor]:
        """Matrix name -> its singular values, descending."""

    def evaluate(self, ranks: Mapping[str, int]) -> Evaluation:
        """Measure one configuration; ValueError for an unknown layer or rank."""

    def evaluate_many(self, configurations: Sequence[Mapping[str, int]]) -> Iterable[Evaluation]:
        """Measure several, in their order."""

    def params(self, ranks: Mapping[str, int]) -> int:
        """Return the number of parameters of the compressed model."""

    def size_ratio(self, ranks: Mapping[str, int]) -> float:
        """Return `params` over the original's."""

    def macs(self, ranks: Mapping[str, int]) -> int:
        """Return the multiply-adds over the whole utterance set."""

    def activation_error(self, ranks: Mapping[str, int]) -> float:
        """Return the error of the activations behind the last layer named, at least 0; see `ActivationError`."""

    def on(self, utterances: Sequence[Utterance]) -> Evaluator:
        """Return an evaluator of the same model and layers that measures for real on other utterances."""

    def close(self) -> None:
        """End what was started to measure; it starts again when it is needed."""
