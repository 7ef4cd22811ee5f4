"""Ranks -> measurement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from shrinkml_env.compression import (
    BATCH,
    SVD,
    CompressibleModel,
    Factorisation,
    GroupedModel,
    Hypothesis,
    Layer,
    PredictiveModel,
    StagedModel,
    canonical_ranks,
    compress,
    count_macs,
    count_parameters,
    in_batches,
    inference_tensors,
    matrix_ranks,
    merge_layers,
    ranks_by_matrix,
    recognise_in_batches,
    require_storable,
    split_layers,
)
from shrinkml_env.compression.canonical import content_bytes, digest, one_thread
from shrinkml_env.data.utterance import Utterance
from shrinkml_env.evaluation.activations import ActivationError
from shrinkml_env.evaluation.cache import EvaluationCache
from shrinkml_env.evaluation.divergence import mean_divergence
from shrinkml_env.evaluation.result import Evaluation
from shrinkml_env.evaluation.stages import StagedRecogniser
from shrinkml_env.evaluation.wer import word_edits
from shrinkml_env.evaluation.workers import Workers

__all__ = ["Evaluator", "Granularity", "recognise_all"]

_ARITHMETIC = 2
"""Raised whenever a change could change a transcript, so that older measurements are not taken for new ones."""

_GROUP = 8
"""Configurations that a GPU computes at once: always so many, so that the arithmetic is always the same."""

_TASKS = 8
"""Configurations for each worker before all wait for the last one."""

_ACTIVATION_UTTERANCES = 4
"""Utterances, spread over the set, on which activations are compared."""

Granularity = Literal["layer", "matrix"] | Mapping[str, Sequence[str]]
"""What shares a rank; see `Evaluator`."""


class Evaluator:
    """Measures configurations of one model on one utterance set.

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
        ValueError: The model is in training mode or has parameters that its `storage_dtype` does not represent, an
            utterance has no reference word, or the model predicts nothing whose divergence could be measured.
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
        if getattr(model, "training", False):
            raise ValueError(
                "the model is in training mode, in which dropout makes every measurement another: call eval()"
            )
        if memory < 0:
            raise ValueError(f"the memory for activations must be at least 0 bytes, got {memory}")
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        device = next(iter(inference_tensors(model).values())).device.type
        if workers > 1 and device != "cpu":
            raise ValueError(f"several workers are for CPUs, the model is on {device!r}: leave workers at 1")
        # A processor that is wide is not filled by one form of a model.
        self._side_by_side = device != "cpu" and isinstance(model, GroupedModel) and not divergence
        if divergence and not isinstance(model, PredictiveModel):
            raise ValueError(
                f"a {type(model).__name__} cannot tell its distributions of the next unit, so no divergence can be "
                "measured: it lacks the method `predict` of shrinkml_env.compression.PredictiveModel; take a reward of "
                "the WER"
            )
        require_storable(model)
        self.model = model
        self.utterances = tuple(utterances)
        self.layers = group_layers(model.layers, granularity)
        self.granularity = granularity
        self.cache = cache
        self.memory = memory
        self.workers = workers
        self.divergence = divergence
        self.factorisation = SVD(model) if factorisation is None else factorisation
        self._references = [model.normalise(utterance.text) for utterance in self.utterances]
        for utterance, reference in zip(self.utterances, self._references, strict=True):
            if not reference:
                raise ValueError(f"utterance {utterance.id!r}: no reference word in {utterance.text!r}")
        self.workload = model.workload(
            [utterance.waveform.numel() for utterance in self.utterances], [u.text for u in self.utterances]
        )

    @cached_property
    def key(self) -> str:
        """Hash of all that a measurement depends on but the ranks: what is measured, how, and what shares a rank."""
        blocks = [[layer.name, [matrix.name for matrix in layer.matrices]] for layer in self.layers]
        return digest([self._content, json.dumps(blocks).encode()])

    @property
    def factorisation_name(self) -> str:
        """How matrices are factored."""
        return self.factorisation.name

    @cached_property
    def baseline(self) -> Evaluation:
        """The original."""
        return self.evaluate({})

    @property
    def singular_values(self) -> Mapping[str, Tensor]:
        """Matrix name -> its singular values, descending."""
        return self.factorisation.singular_values

    @cached_property
    def original_params(self) -> int:
        """Parameters of the original."""
        return count_parameters(self.model)

    def on(self, utterances: Sequence[Utterance]) -> Evaluator:
        """The same measurement on other utterances: of the same model, factors and cache, with as many workers."""
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
        """Parameters of a configuration; what `ranks` leaves out is dense."""
        # As `compressed_parameters`, without counting the original anew: environments ask in every step.
        complete = canonical_ranks(self.layers, ranks)
        return self.original_params - sum(
            layer.parameters(layer.max_rank) - layer.parameters(complete[layer.name]) for layer in self.layers
        )

    def matrix_ranks(self, ranks: Mapping[str, int]) -> dict[str, int]:
        """A configuration matrix by matrix, as `compress` takes it; what `ranks` leaves out is dense."""
        return ranks_by_matrix(self.layers, ranks)

    def size_ratio(self, ranks: Mapping[str, int]) -> float:
        """Parameters of a configuration over the original's."""
        return self.params(ranks) / self.original_params

    def macs(self, ranks: Mapping[str, int]) -> int:
        """Multiply-adds of a configuration over the whole set."""
        return count_macs(self.model.layers, self.matrix_ranks(ranks), self.workload)

    def activation_error(self, ranks: Mapping[str, int]) -> float:
        """Relative error of the activations behind the last layer that `ranks` names, on a few of the utterances.

        See `ActivationError`; costs a little time, and no evaluation.
        """
        with one_thread():
            return self._activation_error(ranks)

    @cached_property
    def _activation_error(self) -> ActivationError:
        step = max(1, len(self.utterances) // _ACTIVATION_UTTERANCES)
        chosen = self.utterances[::step][:_ACTIVATION_UTTERANCES]
        waveforms = [utterance.waveform for utterance in chosen]
        return ActivationError(self.model, self.layers, waveforms, self.factorisation)

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

    def _each(self, configurations: Sequence[dict[str, int]]) -> Iterator[Evaluation]:
        keys = [self._key(configuration) for configuration in configurations]
        wanted = dict(zip(keys, configurations, strict=True))
        known = {} if self.cache is None else self._recall(self.cache, wanted)
        missing = {key: configuration for key, configuration in wanted.items() if key not in known}
        measured = self._measure_missing(missing)
        for key, configuration in zip(keys, configurations, strict=True):
            if key not in known:
                known[key] = next(measured)
            yield self._evaluation(configuration, known[key])

    def _measure_missing(self, missing: Mapping[str, Mapping[str, int]]) -> Iterator[dict[str, Any]]:
        """In their order; what another process has stored meanwhile is not measured again."""
        if self.cache is None:
            yield from self._measure_all(list(missing.values()))
            return
        keys, together = list(missing), self._together
        for start in range(0, len(keys), together):
            # No lock is held while the caller has the word: it may take its time, or ask for another configuration.
            yield from self._measure_and_store(
                self.cache, {key: missing[key] for key in keys[start : start + together]}
            )

    @property
    def _together(self) -> int:
        """Configurations that are locked and measured together: as few as keep the processors busy."""
        if self._side_by_side:
            return _GROUP
        return 1 if self.workers == 1 else _TASKS * self.workers

    def _measure_and_store(
        self, cache: EvaluationCache, missing: Mapping[str, Mapping[str, int]]
    ) -> list[dict[str, Any]]:
        with cache.exclusive(missing):
            known = self._recall(cache, missing)
            still = [key for key in missing if key not in known]
            for key, found in zip(still, self._measure_all([missing[key] for key in still]), strict=True):
                known[key] = found
                cache.put(key, found, self._subject)
        return [known[key] for key in missing]

    @staticmethod
    def _recall(cache: EvaluationCache, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        found = {key: cache.get(key) for key in keys}
        return {key: measured for key, measured in found.items() if measured is not None}

    def _measure_all(self, configurations: Sequence[Mapping[str, int]]) -> Iterator[dict[str, Any]]:
        if self._side_by_side:
            groups = (configurations[start : start + _GROUP] for start in range(0, len(configurations), _GROUP))
            return chain.from_iterable(map(self._measure_side_by_side, groups))
        several = self.workers > 1 and len(configurations) > 1
        return self._workers(configurations) if several else map(self._measure, configurations)

    def _evaluation(self, configuration: dict[str, int], measured: Mapping[str, Any]) -> Evaluation:
        params = self.params(configuration)
        return Evaluation(
            ranks=configuration,
            edits=tuple(measured["edits"]),
            words=tuple(measured["words"]),
            params=params,
            size_ratio=params / self.original_params,
            macs=self.macs(configuration),
            capped=measured["capped"],
            divergence=measured.get("divergence"),
        )

    def _measure(self, configuration: Mapping[str, int]) -> dict[str, Any]:
        model = self._compressed(configuration)
        with one_thread():
            if not self.divergence:
                return self._counts(self._recognise(model, configuration))
            transcripts, predictions = self._predict(model, configuration)
            return {**self._counts(transcripts), "divergence": mean_divergence(self._predictions, predictions)}

    def _measure_side_by_side(self, configurations: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
        forms = [self._compressed(configuration) for configuration in configurations]
        forms += forms[-1:] * (_GROUP - len(forms))
        waveforms = [utterance.waveform for utterance in self.utterances]
        found: list[dict[int, Hypothesis]] = [{} for _ in configurations]
        for batch in in_batches([waveform.numel() for waveform in waveforms]):
            hypotheses = self.model.recognise_side_by_side(forms, [waveforms[index] for index in batch])  # type: ignore[attr-defined]
            for of_form, recognised in zip(found, hypotheses, strict=False):
                of_form.update(zip(batch, recognised, strict=True))
        return [self._counts([of_form[index] for index in range(len(waveforms))]) for of_form in found]

    def _compressed(self, configuration: Mapping[str, int]) -> CompressibleModel:
        return compress(self.model, self.matrix_ranks(configuration), self.factorisation)

    def _counts(self, transcripts: Sequence[Hypothesis]) -> dict[str, Any]:
        edits, words = zip(
            *(
                word_edits(reference, self.model.normalise(hypothesis.text))
                for reference, hypothesis in zip(self._references, transcripts, strict=True)
            ),
            strict=True,
        )
        return {"edits": edits, "words": words, "capped": sum(hypothesis.capped for hypothesis in transcripts)}

    def _recognise(self, model: CompressibleModel, configuration: Mapping[str, int]) -> list[Hypothesis]:
        if isinstance(model, StagedModel):
            return self._recogniser(model, self._factored(configuration))
        return recognise_in_batches(model, [utterance.waveform for utterance in self.utterances])

    def _predict(
        self, model: CompressibleModel, configuration: Mapping[str, int]
    ) -> tuple[list[Hypothesis], list[Tensor]]:
        """Transcripts, and the distributions of a model that is told what the original writes.

        Told the reference, a model that writes capitals and commas would be asked about a text that it never comes to.
        """
        assert isinstance(model, PredictiveModel)
        return self._recogniser.with_predictions(model, self._factored(configuration), self._originals_transcripts)

    @cached_property
    def _originals_transcripts(self) -> list[str]:
        return [hypothesis.text for hypothesis in self._recognise(self.model, {})]

    @cached_property
    def _predictions(self) -> list[Tensor]:
        """The original's."""
        return self._predict(self.model, {})[1]

    def _factored(self, configuration: Mapping[str, int]) -> dict[str, int]:
        """Factored matrix -> rank."""
        return matrix_ranks(self.model.layers, self.matrix_ranks(configuration))

    @cached_property
    def _recogniser(self) -> StagedRecogniser:
        assert isinstance(self.model, StagedModel)
        return StagedRecogniser(self.model, [utterance.waveform for utterance in self.utterances], self.memory)

    @cached_property
    def _workers(self) -> Workers[Mapping[str, int], dict[str, Any]]:
        return Workers(self._measure, self.workers)

    def __getstate__(self) -> dict[str, Any]:
        # Activations and processes stay where they are.
        here = ("_recogniser", "_originals_transcripts", "_predictions", "_workers", "_activation_error")
        return {name: value for name, value in vars(self).items() if name not in here}

    def close(self) -> None:
        """End the workers; they start again when they are needed."""
        workers = vars(self).pop("_workers", None)
        if workers is not None:
            workers.close()

    @property
    def _subject(self) -> str:
        """For people who look into the cache."""
        sizes = f"{self.original_params:,} parameters, {len(self.utterances)} utterances"
        return f"{self.model.architecture} {self._content.hex()[:12]}: {sizes}, {self.factorisation.name}"

    def _key(self, configuration: Mapping[str, int]) -> str:
        return digest([self._content, json.dumps(self._factored(configuration), sort_keys=True).encode()])

    @cached_property
    def _content(self) -> bytes:
        """Hash of all that a measurement depends on but the ranks."""
        tensors = inference_tensors(self.model)
        # Other kinds of processors and other versions of torch round otherwise: their measurements are kept apart.
        arithmetic = [_ARITHMETIC, BATCH, next(iter(tensors.values())).device.type, torch.__version__]
        if self._side_by_side:
            arithmetic.append(_GROUP)
        if self.divergence:
            arithmetic.append("divergence")
        parts = [
            json.dumps([*arithmetic, self.factorisation.key, self.model.architecture]).encode(),
            json.dumps(self.model.to_config(), sort_keys=True).encode(),
            json.dumps(dict(self.model.decoder_settings), sort_keys=True).encode(),
        ]
        for name in sorted(tensors):
            parts += [name.encode(), content_bytes(tensors[name])]
        for utterance, reference in zip(self.utterances, self._references, strict=True):
            parts += [reference.encode(), content_bytes(utterance.waveform)]
        return bytes.fromhex(digest(parts))


def group_layers(layers: tuple[Layer, ...], granularity: Granularity) -> tuple[Layer, ...]:
    """A model's layers as they are decided about, with the granularity of an `Evaluator`.

    Raises:
        ValueError: It is none, or its blocks are not of these layers.
    """
    if isinstance(granularity, Mapping):
        return merge_layers(layers, granularity)
    if granularity not in ("layer", "matrix"):
        raise ValueError(f"granularity must be 'layer', 'matrix' or a mapping of blocks, got {granularity!r}")
    return layers if granularity == "layer" else split_layers(layers)


def recognise_all(model: CompressibleModel, utterances: Sequence[Utterance]) -> list[Hypothesis]:
    """What a model makes of utterances, in their order, by the canonical arithmetic: one thread, batches by length."""
    with one_thread():
        return recognise_in_batches(model, [utterance.waveform for utterance in utterances])
