"""The measurement itself: from a model and the ranks of its matrices to counts of errors."""

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
from shrinkml_env.data.utterance import Utterance
from shrinkml_env.evaluation.result import Counts
from shrinkml_env.evaluation.stages import StagedRecogniser
from shrinkml_env.evaluation.wer import word_edits
from shrinkml_env.evaluation.workers import Workers

__all__ = ["Measurer", "Ranks", "device_of"]

_ARITHMETIC = 2
"""Raise it whenever a change could change a transcript, so that older measurements are not taken for new ones."""

_TASKS = 8
"""Configurations for each worker before all wait for the last one."""

Ranks = Mapping[str, int]
"""A configuration matrix by matrix: each factored matrix -> its rank; all others are dense."""


class Measurer:
    """A measurer recognises a set of utterances with compressed forms of one model and counts the errors.

    It computes one form after the other, on one thread, in the same batches every time.

    Args:
        model: The original, in evaluation mode.
        utterances: At least one, each with at least one reference word in the model's normal form.
        factorisation: How matrices are factored; None is plain SVD.
        memory: Bytes for what forms of a `StagedModel` share, features and activations; 0 keeps nothing.
        workers: Processes, each with its own memory, for several configurations at once; on CPUs only.

    Raises:
        ValueError: The model is in training mode or has parameters that its `storage_dtype` does not represent, an
            utterance has no reference word or is too short for the model, or a number is out of range.
    """

    arithmetic: ClassVar[tuple[Any, ...]] = ()
    """JSON-able parts of `content` that set this way to compute apart from the usual one."""

    def __init__(
        self,
        model: CompressibleModel,
        utterances: Sequence[Utterance],
        factorisation: Factorisation | None = None,
        memory: int = 0,
        workers: int = 1,
    ) -> None:
        if getattr(model, "training", False):
            raise ValueError(
                "the model is in training mode, in which dropout makes every measurement another: call eval()"
            )
        memory = whole_number("memory", memory, least=0)
        workers = whole_number("workers", workers, least=1)
        device = device_of(model)
        if workers > 1 and device != "cpu":
            raise ValueError(f"several workers are for CPUs, the model is on {device!r}: leave workers at 1")
        require_storable(model)
        self.model = model
        self.utterances = tuple(utterances)
        self.factorisation = SVD(model) if factorisation is None else factorisation
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
    def together(self) -> int:
        """How many configurations are measured at once: as few as keep the processors busy."""
        return 1 if self._workers.count == 1 else _TASKS * self._workers.count

    @cached_property
    def content(self) -> bytes:
        """The hash of all that the counts depend on but the ranks: weights, utterances, method, decoder, arithmetic."""
        tensors = inference_tensors(self.model)
        # Other kinds of processors and other versions of torch round otherwise: their measurements are kept apart.
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
        """A line that says what is measured, for people."""
        sizes = f"{count_parameters(self.model):,} parameters, {len(self.utterances)} utterances"
        return f"{self.model.architecture} {self.content.hex()[:12]}: {sizes}, {self.factorisation.name}"

    def __call__(self, ranks: Ranks) -> Counts:
        """Measure one configuration."""
        model = self.compressed(ranks)
        with one_thread():
            return self.counts(self.recognise(model, ranks))

    def measure(self, configurations: Sequence[Ranks]) -> Iterator[Counts]:
        """Measure several, in their order, each when it is asked for or `together` with those beside it."""
        several = self._workers.count > 1 and len(configurations) > 1
        return self._workers(configurations) if several else map(self, configurations)

    def close(self) -> None:
        """End the workers; they start again when they are needed."""
        self._workers.close()

    def compressed(self, ranks: Ranks) -> CompressibleModel:
        """Return a form of the model."""
        return compress(self.model, ranks, self.factorisation)

    def recognise(self, model: CompressibleModel, ranks: Ranks) -> list[Hypothesis]:
        """Return what a form with these ranks recognises in all utterances."""
        if self._staged is not None:
            assert isinstance(model, StagedModel)
            return self._staged(model, ranks)
        return recognise_in_batches(model, self._waveforms)

    def counts(self, transcripts: Sequence[Hypothesis]) -> Counts:
        """Count the errors of the transcripts of all utterances."""
        edits, words = zip(
            *(
                word_edits(reference, self.model.normalise(hypothesis.text))
                for reference, hypothesis in zip(self._references, transcripts, strict=True)
            ),
            strict=True,
        )
        return Counts(edits, words, sum(hypothesis.capped for hypothesis in transcripts))


def device_of(model: CompressibleModel) -> str:
    """Return the kind of processor that computes a model: ``"cpu"``, ``"cuda"``."""
    return next(iter(inference_tensors(model).values())).device.type
