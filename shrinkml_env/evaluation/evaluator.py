"""The evaluator, which measures configurations of a model on an utterance set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from torch import Tensor

from shrinkml_env.compression import (
    CompressibleModel,
    Factorisation,
    GroupedModel,
    Hypothesis,
    canonical_ranks,
    count_macs,
    count_parameters,
    matrix_ranks,
    parameters_at,
    ranks_by_matrix,
    recognise_in_batches,
)
from shrinkml_env.compression.canonical import digest, one_thread
from shrinkml_env.compression.layers import Granularity, group_layers, name_with_form
from shrinkml_env.compression.tensors import device_of
from shrinkml_env.data.utterance import Utterance
from shrinkml_env.evaluation.activations import ActivationError
from shrinkml_env.evaluation.cache import EvaluationCache
from shrinkml_env.evaluation.cached_measurer import CachedMeasurer
from shrinkml_env.evaluation.divergence import DivergenceMeasurer
from shrinkml_env.evaluation.measurer import Measurer
from shrinkml_env.evaluation.result import Counts, Evaluation
from shrinkml_env.evaluation.side_by_side import SideBySideMeasurer

__all__ = ["Evaluator", "recognise_all"]

_ACTIVATION_UTTERANCES = 4
"""The number of utterances of the set on which activations are compared."""


class Evaluator:
    """An evaluator measures configurations of one model on one utterance set.

    A measurement depends on its inputs alone: the batches are the same every time (sorted by length), one thread
    computes them, and the factors are rounded as they will be saved.

    Args:
        model: The original, in evaluation mode.
        utterances: At least one, each with at least one reference word after the model's text normalisation.
        granularity: ``"layer"``: one rank for each of the model's layers; ``"matrix"``: one for each matrix; or a
            mapping of blocks: name -> names of the layers that share a rank (see `merge_layers`).
        cache: The cache in which measurements persist; None measures anew every time.
        factorisation: The way in which matrices are factored; None is plain SVD.
        memory: Bytes for features and activations that configurations of a `StagedModel` share; 0 keeps nothing.
        workers: Number of processes for `evaluate_many`, each with its own memory; more than 1 on CPUs only. A GPU
            measures several configurations of a `GroupedModel` at once in one process.
        divergence: Whether to measure the divergence from the original as well. It needs a `PredictiveModel`, and
            makes a GPU measure one configuration at a time.
        dense: Patterns of the names of the model's layers that stay dense, such as ``"decoder.*"``: no rank is chosen
            for them.

    Raises:
        ValueError: The model is in training mode or has parameters that its `storage_dtype` cannot represent; there
            is no utterance; one has no reference word or is too short for the model; a pattern of `dense` matches no
            layer; or the model has no method `predict`, which the divergence needs.
    """

    def __init__(
        self,
        model: CompressibleModel,
        utterances: Sequence[Utterance],
        granularity: Granularity = "layer",
        cache: EvaluationCache | None = None,
        factorisation: Factorisation | None = None,
        memory: int = 2**28,
        workers: int = 1,
        divergence: bool = False,
        dense: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.utterances = tuple(utterances)
        if not self.utterances:
            raise ValueError("an evaluator needs at least one utterance")
        self.granularity = granularity
        self.cache = cache
        self.memory = memory
        self.workers = workers
        self.divergence = divergence
        self.dense = tuple(dense)
        measurer = _measurer_class(model, divergence)
        self._measurer = measurer(model, self.utterances, factorisation, memory, workers)
        self._cached = CachedMeasurer(self._measurer, cache)
        self.factorisation = self._measurer.factorisation
        self.layers = group_layers(self.factorisation.layers, granularity, dense)
        self.workload = model.workload(
            [utterance.waveform.numel() for utterance in self.utterances], [u.text for u in self.utterances]
        )
        self._activation_error = ActivationError(
            model, self.layers, [utterance.waveform for utterance in self._sample()], self.factorisation
        )

    @cached_property
    def key(self) -> str:
        """The hash of all that a measurement depends on except the ranks.

        These are the model, the utterances, the factorisation, the granularity, the decoder and the arithmetic.
        """
        blocks = [[layer.name, [matrix.name for matrix in layer.matrices]] for layer in self.layers]
        return digest([self._measurer.content, json.dumps(blocks).encode()])

    @property
    def num_utterances(self) -> int:
        """The number of utterances of the set."""
        return len(self.utterances)

    @property
    def factorisation_name(self) -> str:
        """The name of the factorisation, and of its form; see `name_with_form`."""
        return name_with_form(self.factorisation.name, self.layers)

    @cached_property
    def baseline(self) -> Evaluation:
        """The evaluation of the original."""
        return self.evaluate({})

    @property
    def singular_values(self) -> Mapping[str, Tensor]:
        """Matrix name -> its singular values, descending."""
        return self.factorisation.singular_values

    @cached_property
    def original_params(self) -> int:
        """The number of parameters of the original."""
        return count_parameters(self.model)

    def on(self, utterances: Sequence[Utterance]) -> Evaluator:
        """Return an evaluator of the same model on other utterances, with the same factors, cache and workers."""
        return self._like(utterances, self.factorisation)

    def with_factorisation(self, factorisation: Factorisation) -> Evaluator:
        """Return an evaluator of the same model on the same utterances, with other factors of the same layers."""
        return self._like(self.utterances, factorisation)

    def _like(self, utterances: Sequence[Utterance], factorisation: Factorisation) -> Evaluator:
        return Evaluator(
            self.model,
            utterances,
            granularity=self.granularity,
            cache=self.cache,
            factorisation=factorisation,
            memory=self.memory,
            workers=self.workers,
            divergence=self.divergence,
            dense=self.dense,
        )

    def params(self, ranks: Mapping[str, int]) -> int:
        """Return the number of parameters of a configuration; layers that `ranks` does not name are dense."""
        return parameters_at(self.original_params, self.layers, ranks)

    def matrix_ranks(self, ranks: Mapping[str, int]) -> dict[str, int]:
        """Return the rank of every matrix, as `compress` takes it; layers that `ranks` does not name are dense."""
        return ranks_by_matrix(self.layers, ranks)

    def size_ratio(self, ranks: Mapping[str, int]) -> float:
        """Return the parameters of a configuration over the original's."""
        return self.params(ranks) / self.original_params

    def macs(self, ranks: Mapping[str, int]) -> int:
        """Return the multiply-adds of a configuration over the whole set."""
        return count_macs(self.factorisation.layers, self.matrix_ranks(ranks), self.workload)

    def activation_error(self, ranks: Mapping[str, int]) -> float:
        """Return the relative error of the outputs of the last layer that `ranks` names, on a few utterances.

        See `ActivationError`. It takes a little time and counts as no evaluation.
        """
        with one_thread():
            return self._activation_error(ranks)

    def evaluate(self, ranks: Mapping[str, int]) -> Evaluation:
        """Measure a configuration.

        Args:
            ranks: Layer name -> rank; layers without an entry are dense.

        Raises:
            ValueError: A layer is unknown, or a rank is outside 1..max_rank.
        """
        (evaluation,) = self.evaluate_many([ranks])
        return evaluation

    def evaluate_many(self, configurations: Sequence[Mapping[str, int]]) -> Iterator[Evaluation]:
        """Measure several configurations, in parallel if there are several `workers`.

        Returns:
            An iterator over the evaluations, in the order of the configurations. It measures only as it is advanced, a
            chunk of configurations at a time.

        Raises:
            ValueError: A layer is unknown or a rank is out of range; raised by the call, before any measurement.
        """
        return self._evaluate_each([canonical_ranks(self.layers, ranks) for ranks in configurations])

    def close(self) -> None:
        """Stop the worker processes; they start again at the next use."""
        self._measurer.close()

    def _evaluate_each(self, configurations: Sequence[dict[str, int]]) -> Iterator[Evaluation]:
        factored = [matrix_ranks(self.factorisation.layers, self.matrix_ranks(ranks)) for ranks in configurations]
        for ranks, counts in zip(configurations, self._cached.measure(factored), strict=True):
            yield self._evaluation(ranks, counts)

    def _evaluation(self, ranks: dict[str, int], counts: Counts) -> Evaluation:
        params = self.params(ranks)
        return Evaluation(
            ranks=ranks,
            edits=counts.edits,
            words=counts.words,
            params=params,
            size_ratio=params / self.original_params,
            macs=self.macs(ranks),
            capped=counts.capped,
            divergence=counts.divergence,
        )

    def _sample(self) -> tuple[Utterance, ...]:
        """Return a few utterances: every k-th, from the first on."""
        step = max(1, len(self.utterances) // _ACTIVATION_UTTERANCES)
        return self.utterances[::step][:_ACTIVATION_UTTERANCES]


def _measurer_class(model: CompressibleModel, divergence: bool) -> type[Measurer]:
    """Return the class of measurer that suits a model and its device."""
    if divergence:
        return DivergenceMeasurer
    # One compressed model alone does not fill a GPU.
    return SideBySideMeasurer if device_of(model) != "cpu" and isinstance(model, GroupedModel) else Measurer


def recognise_all(model: CompressibleModel, utterances: Sequence[Utterance]) -> list[Hypothesis]:
    """Recognise utterances with one thread and batches by length, as an evaluator does; return them in their order."""
    with one_thread():
        return recognise_in_batches(model, [utterance.waveform for utterance in utterances])
