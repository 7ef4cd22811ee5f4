"""From the ranks of a model's layers to an evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal

from torch import Tensor

from shrinkml_env.compression import (
    CompressibleModel,
    Factorisation,
    GroupedModel,
    Hypothesis,
    Layer,
    canonical_ranks,
    count_macs,
    count_parameters,
    matrix_ranks,
    merge_layers,
    ranks_by_matrix,
    recognise_in_batches,
    split_layers,
)
from shrinkml_env.compression.canonical import digest, one_thread
from shrinkml_env.data.utterance import Utterance
from shrinkml_env.evaluation.activations import ActivationError
from shrinkml_env.evaluation.cache import EvaluationCache
from shrinkml_env.evaluation.cached import CachedMeasurer
from shrinkml_env.evaluation.divergence import DivergenceMeasurer
from shrinkml_env.evaluation.measurer import Measurer, device_of
from shrinkml_env.evaluation.result import Counts, Evaluation
from shrinkml_env.evaluation.side_by_side import SideBySideMeasurer

__all__ = ["Evaluator", "Granularity", "group_layers", "recognise_all"]

_ACTIVATION_UTTERANCES = 4
"""Utterances, spread over the set, on which activations are compared."""

Granularity = Literal["layer", "matrix"] | Mapping[str, Sequence[str]]
"""The choice of what shares a rank; see `Evaluator`."""


class Evaluator:
    """An evaluator measures configurations of one model on one utterance set.

    A measurement depends on its inputs alone: the batches are the same every time (sorted by length), one thread
    computes them, and the factors are rounded as they will be saved.

    Args:
        model: The original.
        utterances: At least one, each with at least one reference word in the model's normal form.
        granularity: ``"layer"``: one rank for each of the model's layers; ``"matrix"``: one for each matrix; or a
            mapping of blocks: name -> names of the layers that share a rank (see `merge_layers`).
        cache: Where measurements persist; None measures anew every time.
        factorisation: How matrices are factored; None is plain SVD.
        memory: Bytes for what configurations of a `StagedModel` share, features and activations; 0 keeps nothing.
        workers: Processes for `evaluate_many`, each with its own memory; on CPUs only. A GPU measures many
            configurations of a `GroupedModel` side by side by itself.
        divergence: Measure the divergence from the original as well; of a `PredictiveModel` only, and one configuration
            at a time on a GPU, too.

    Raises:
        ValueError: The model is in training mode or has parameters that its `storage_dtype` does not represent, there
            is no utterance, one has no reference word or is too short for the model, or the model predicts nothing
            whose divergence could be measured.
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
        measurer = _measurer_class(model, divergence)
        self._measurer = measurer(model, self.utterances, factorisation, memory, workers)
        self._cached = CachedMeasurer(self._measurer, cache)
        self.factorisation = self._measurer.factorisation
        self.layers = group_layers(self.factorisation.layers, granularity)
        self.workload = model.workload(
            [utterance.waveform.numel() for utterance in self.utterances], [u.text for u in self.utterances]
        )
        self._activation_error = ActivationError(
            model, self.layers, [utterance.waveform for utterance in self._spread()], self.factorisation
        )

    @cached_property
    def key(self) -> str:
        """The hash of all that a measurement depends on but the ranks: what is measured, how, what shares a rank."""
        blocks = [[layer.name, [matrix.name for matrix in layer.matrices]] for layer in self.layers]
        return digest([self._measurer.content, json.dumps(blocks).encode()])

    @property
    def factorisation_name(self) -> str:
        """The name of the way in which matrices are factored."""
        return self.factorisation.name

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
        return Evaluator(
            self.model,
            utterances,
            self.granularity,
            self.cache,
            self.factorisation,
            self.memory,
            self.workers,
            self.divergence,
        )

    def params(self, ranks: Mapping[str, int]) -> int:
        """Return the number of parameters of a configuration; what `ranks` leaves out is dense."""
        # As `compressed_parameters`, without counting the original anew: environments ask in every step.
        complete = canonical_ranks(self.layers, ranks)
        return self.original_params - sum(
            layer.parameters(layer.max_rank) - layer.parameters(complete[layer.name]) for layer in self.layers
        )

    def matrix_ranks(self, ranks: Mapping[str, int]) -> dict[str, int]:
        """Return a configuration matrix by matrix, as `compress` takes it; what `ranks` leaves out is dense."""
        return ranks_by_matrix(self.layers, ranks)

    def size_ratio(self, ranks: Mapping[str, int]) -> float:
        """Return the parameters of a configuration over the original's."""
        return self.params(ranks) / self.original_params

    def macs(self, ranks: Mapping[str, int]) -> int:
        """Return the multiply-adds of a configuration over the whole set."""
        return count_macs(self.factorisation.layers, self.matrix_ranks(ranks), self.workload)

    def activation_error(self, ranks: Mapping[str, int]) -> float:
        """Return the relative error of the activations behind the last layer that `ranks` names, on a few utterances.

        See `ActivationError`; costs a little time, and no evaluation.
        """
        with one_thread():
            return self._activation_error(ranks)

    def evaluate(self, ranks: Mapping[str, int]) -> Evaluation:
        """Measure a configuration: layer name -> rank; what it leaves out is dense.

        Raises:
            ValueError: Unknown layer, or a rank outside 1..max_rank.
        """
        (evaluation,) = self.evaluate_many([ranks])
        return evaluation

    def evaluate_many(self, configurations: Sequence[Mapping[str, int]]) -> Iterator[Evaluation]:
        """Measure several configurations, in their order; with several `workers` side by side.

        Each comes as soon as it is measured, or the few that are measured together are. Nothing is measured before it
        is asked for.

        Raises:
            ValueError: As `evaluate`, at once.
        """
        return self._each([canonical_ranks(self.layers, ranks) for ranks in configurations])

    def close(self) -> None:
        """End the workers; they start again when they are needed."""
        self._measurer.close()

    def _each(self, configurations: Sequence[dict[str, int]]) -> Iterator[Evaluation]:
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

    def _spread(self) -> tuple[Utterance, ...]:
        """Return a few utterances, spread over the set."""
        step = max(1, len(self.utterances) // _ACTIVATION_UTTERANCES)
        return self.utterances[::step][:_ACTIVATION_UTTERANCES]


def _measurer_class(model: CompressibleModel, divergence: bool) -> type[Measurer]:
    """Return the way to measure a model on its processor."""
    if divergence:
        return DivergenceMeasurer
    # A processor that is wide is not filled by one form of a model.
    return SideBySideMeasurer if device_of(model) != "cpu" and isinstance(model, GroupedModel) else Measurer


def group_layers(layers: tuple[Layer, ...], granularity: Granularity) -> tuple[Layer, ...]:
    """Return a model's layers as they are decided about, with the granularity of an `Evaluator`.

    Raises:
        ValueError: It is none, or its blocks are not of these layers.
    """
    if isinstance(granularity, Mapping):
        return merge_layers(layers, granularity)
    if granularity not in ("layer", "matrix"):
        raise ValueError(f"granularity must be 'layer', 'matrix' or a mapping of blocks, got {granularity!r}")
    return layers if granularity == "layer" else split_layers(layers)


def recognise_all(model: CompressibleModel, utterances: Sequence[Utterance]) -> list[Hypothesis]:
    """Recognise utterances, in their order, by the canonical arithmetic: one thread, batches by length."""
    with one_thread():
        return recognise_in_batches(model, [utterance.waveform for utterance in utterances])
