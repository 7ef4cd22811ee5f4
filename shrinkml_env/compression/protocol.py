"""All that the environment, the evaluator and the compression know of a recogniser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from shrinkml_env.compression.layers import Layer

__all__ = ["BATCH", "CompressibleModel", "Hypothesis", "Workload", "recognise_in_batches"]

BATCH = 32
"""Utterances that are recognised together."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What was recognised in one utterance.

    Attributes:
        text: The transcript, in the model's normal form.
        capped: Decoding was stopped by the utterance's token limit (always False for models without one).
    """

    text: str
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """What a set of utterances asks of a model, whatever its ranks.

    Attributes:
        positions: Matrix name -> number of vectors that the matrix is multiplied with.
        other_macs: Multiply-adds that no rank changes (attention, look-ups, matrices that belong to no layer).
    """

    positions: Mapping[str, int]
    other_macs: int


@runtime_checkable
class CompressibleModel(Protocol):
    """A recogniser that can be compressed: a `torch.nn.Module` with these members besides.

    The matrices that `layers` names must be parameters of `torch.nn.Linear`, `Conv1d`, `LSTM`, `LSTMCell`, `GRU`
    or `GRUCell` modules, which compression replaces by their low-rank forms; nothing else of the model changes.
    """

    architecture: str
    """Name under which `register_architecture` knows the class; written into saved files."""

    storage_dtype: torch.dtype
    """The number format of the saved file; factors are rounded to it before anything is measured."""

    @property
    def training_only(self) -> tuple[str, ...]:
        """Paths of the modules and parameters that inference does not use (a CTC head); neither counted nor saved."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the *original* in forward order; those of a compressed model are the same."""

    @property
    def decoder_settings(self) -> Mapping[str, Any]:
        """JSON-able: everything but the weights and the waveforms that the transcripts depend on."""

    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        """Recognise one batch: 1-D float32 waveforms of samples at 16 kHz. Batching must not change a transcript."""

    def transcribe(self, waveforms: Sequence[Tensor]) -> list[str]:
        """The texts of `recognise`, for any number of waveforms."""

    def normalise(self, text: str) -> str:
        """The form in which references and hypotheses are compared."""

    def workload(self, num_samples: Sequence[int], texts: Sequence[str]) -> Workload:
        """What these utterances (lengths at 16 kHz, reference transcripts) ask of the matrices."""

    def to_config(self) -> dict[str, Any]:
        """JSON-able arguments of `from_config`."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The model with parameters still to be loaded."""


def recognise_in_batches(model: CompressibleModel, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
    """What a model recognises in any number of waveforms, in their order: batches of `BATCH`, sorted by length."""
    order = sorted(range(len(waveforms)), key=lambda index: (waveforms[index].numel(), index))
    found: dict[int, Hypothesis] = {}
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        found.update(zip(batch, model.recognise([waveforms[index] for index in batch]), strict=True))
    return [found[index] for index in range(len(waveforms))]
