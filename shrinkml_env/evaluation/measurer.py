"""The measurement itself: compress a model, recognise the utterances, count the errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch

from shrinkml_env.checks import whole_number
from shrinkml_env.compression import (
    BATCH,
    SVD,
    CompressibleModel,
    Factorisation,
    Hypothesis,
    StagedModel,
    compress,
    count_parameters,
    inference_tensors,
    recognise_in_batches,
    require_length,
    require_storable,
)
from shrinkml_env.compression.canonical import content_bytes, digest, one_thread
from shrinkml_env.compression.protocol import in_training_mode
from shrinkml_env.compression.svd import WhitenedSVD
from shrinkml_env.compression.tensors import device_of
from shrinkml_env.data.utterance import Utterance
from shrinkml_env.evaluation.result import Counts
from shrinkml_env.evaluation.stages import StagedRecogniser
from shrinkml_env.evaluation.wer import count_errors
from shrinkml_env.evaluation.workers import Workers

__all__ = ["Measurer", "Ranks"]

_ARITHMETIC = 2
"""Part of the cache key. Increase it with every change that could alter a transcript, to invalidate older entries."""

_TASKS = 8
"""Configurations for each worker in a chunk; at the end of a chunk all workers wait for the last one."""

Ranks = Mapping[str, int]
"""A configuration by matrices: name of each factored matrix -> rank; all others are dense."""


class Measurer:
    """A measurer recognises an utterance set with compressed versions of one model and counts the word errors.

    It measures one configuration after the other, on one thread, in the same batches every time.

    Args:
        model: The original, in evaluation mode.
        utterances: At least one, each with at least one reference word after the model's text normalisation.
        factorisation: The way in which matrices are factored; None is plain SVD.
        memory: Bytes for features and activations that configurations of a `StagedModel` share; 0 keeps nothing.
        workers: Number of processes, each with its own memory, that measure in parallel; more than 1 on CPUs only.

    Raises:
        ValueError: The model is in training mode or has parameters that its `storage_dtype` cannot represent; the
            factors are of another model; an utterance has no reference word or is too short for the model; or `memory`
            or `workers` is out of range.
    """

    arithmetic: ClassVar[tuple[Any, ...]] = ()
    """JSON-able parts of the cache key that keep a subclass's measurements apart from those of `Measurer`."""

    def __init__(
        self,
        model: CompressibleModel,
        utterances: Sequence[Utterance],
        factorisation: Factorisation | None = None,
        memory: int = 0,
        workers: int = 1,
    ) -> None:
        if in_training_mode(model):
            raise ValueError("the model is in training mode, in which dropout changes every measurement: call eval()")
        memory = whole_number("memory", memory, least=0)
        workers = whole_number("workers", workers, least=1)
        device = device_of(model)
        if workers > 1 and device != "cpu":
            raise ValueError(f"several workers are for CPUs, the model is on {device!r}: leave workers at 1")
        require_storable(model)
        self.model = model
        self.utterances = tuple(utterances)
        self.factorisation = SVD(model) if factorisation is None else factorisation
        if isinstance(factorisation, WhitenedSVD):
            factorisation.require_model(model)  # its key tells nothing of the model
        self._waveforms = [utterance.waveform for utterance in self.utterances]
        self._references = [model.normalise(utterance.text) for utterance in self.utterances]
        for utterance, reference in zip(self.utterances, self._references, strict=True):
            if not reference:
                raise ValueError(f"utterance {utterance.id!r}: no reference word in {utterance.text!r}")
            require_length(model, utterance.waveform.numel(), f"utterance {utterance.id!r}")
        self._staged = (
            StagedRecogniser(model, self.factorisation.layers, self._waveforms, memory)
            if isinstance(model, StagedModel)
            else None
        )
        self._workers: Workers[Ranks, Counts] = Workers(self, workers)

    @property
    def chunk_size(self) -> int:
        """The number of configurations to pass to `measure` at once: the smallest that keeps all workers busy."""
        return 1 if self._workers.count == 1 else _TASKS * self._workers.count

    @cached_property
    def content(self) -> bytes:
        """The hash of all that the counts depend on except the ranks.

        These are the weights, the utterances, the factorisation, the decoder and the arithmetic.
        """
        tensors = inference_tensors(self.model)
        # Rounding differs between kinds of devices and versions of torch.
        arithmetic = [_ARITHMETIC, BATCH, device_of(self.model), torch.__version__, *self.arithmetic]
        parts = [
            json.dumps([*arithmetic, self.factorisation.key, self.model.architecture]).encode(),
            json.dumps(self.model.to_config(), sort_keys=True).encode(),
            json.dumps(dict(self.model.decoder_settings), sort_keys=True).encode(),
        ]
        for name in sorted(tensors):
            parts += [name.encode(), content_bytes(tensors[name])]
        for waveform, reference in zip(self._waveforms, self._references, strict=True):
            parts += [reference.encode(), content_bytes(waveform)]
        return bytes.fromhex(digest(parts))

    @property
    def subject(self) -> str:
        """A description of the model, its utterances and its factorisation, in one line."""
        sizes = f"{count_parameters(self.model):,} parameters, {len(self.utterances)} utterances"
        return f"{self.model.architecture} {self.content.hex()[:12]}: {sizes}, {self.factorisation.name}"

    def __call__(self, ranks: Ranks) -> Counts:
        """Measure one configuration."""
        model = self.compressed(ranks)
        with one_thread():
            return self.counts(self.recognise(model, ranks))

    def measure(self, configurations: Sequence[Ranks]) -> Iterator[Counts]:
        """Return an iterator over the counts of several configurations, in their order; workers measure in parallel."""
        several = self._workers.count > 1 and len(configurations) > 1
        return self._workers(configurations) if several else map(self, configurations)

    def close(self) -> None:
        """Stop the worker processes; they start again at the next use."""
        self._workers.close()

    def compressed(self, ranks: Ranks) -> CompressibleModel:
        """Return the model compressed to these ranks."""
        return compress(self.model, ranks, self.factorisation)

    def recognise(self, model: CompressibleModel, ranks: Ranks) -> list[Hypothesis]:
        """Recognise all utterances with a compressed model, which has these ranks."""
        if self._staged is not None:
            assert isinstance(model, StagedModel)
            return self._staged(model, ranks)
        return recognise_in_batches(model, self._waveforms)

    def counts(self, transcripts: Sequence[Hypothesis]) -> Counts:
        """Count the errors in the transcripts of all utterances, in the set's order."""
        return count_errors(self.model, self._references, transcripts)
