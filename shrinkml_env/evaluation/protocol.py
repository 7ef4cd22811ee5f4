"""The protocol of evaluators: the methods that searches use."""

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
    """The part of an `Evaluator` that searches use.

    In every method `ranks` maps layer names to ranks; layers without an entry are dense.
    """

    @property
    def key(self) -> str:
        """The hash of all that a measurement depends on except the ranks; equal keys mean equal measurements."""

    @property
    def num_utterances(self) -> int:
        """The number of utterances of the set."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The model's layers at the chosen granularity, in forward order."""

    @property
    def factorisation_name(self) -> str:
        """The name of the factorisation, `Factorisation.name`, and of its form; see `name_with_form`."""

    @property
    def baseline(self) -> Evaluation:
        """The evaluation of the original model, all layers dense."""

    @property
    def singular_values(self) -> Mapping[str, Tensor]:
        """Matrix name -> its singular values, descending."""

    def evaluate(self, ranks: Mapping[str, int]) -> Evaluation:
        """Measure one configuration.

        Raises:
            ValueError: A layer is unknown, or a rank is out of range.
        """

    def evaluate_many(self, configurations: Sequence[Mapping[str, int]]) -> Iterable[Evaluation]:
        """Measure several configurations, in their order."""

    def params(self, ranks: Mapping[str, int]) -> int:
        """Return the number of parameters of a configuration."""

    def size_ratio(self, ranks: Mapping[str, int]) -> float:
        """Return `params` over the original's number of parameters, in (0, 1]."""

    def macs(self, ranks: Mapping[str, int]) -> int:
        """Return the multiply-adds of a configuration over the whole utterance set."""

    def activation_error(self, ranks: Mapping[str, int]) -> float:
        """Return the relative error of the outputs of the last layer named, at least 0; see `ActivationError`."""

    def on(self, utterances: Sequence[Utterance]) -> Evaluator:
        """Return an evaluator of the same model and layers that measures on other utterances, without a table."""

    def close(self) -> None:
        """Stop the worker processes, if there are any; they start again at the next use."""
