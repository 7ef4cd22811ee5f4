"""All that the environment, the evaluator and the compression know of a recogniser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from shrinkml_env.compression.layers import Layer

__all__ = [
    "BATCH",
    "CompressibleModel",
    "GroupedModel",
    "Hypothesis",
    "PredictiveModel",
    "StagedModel",
    "State",
    "Workload",
    "in_batches",
    "recognise_in_batches",
    "recognise_in_stages",
    "require_length",
    "require_model",
]

BATCH = 16
"""Utterances that are recognised together: as fast as more of them on a CPU core, with less padding."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What was recognised in one utterance.

    Attributes:
        text: The transcript, as the model writes it.
        capped: Decoding was stopped by the utterance's token limit (always False for models without one).
    """

    text: str
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """What a set of utterances asks of a model, whatever its ranks.

    Attributes:
        positions: Matrix name -> number of vectors that the matrix is multiplied with.
        other_macs: Multiply-adds that no rank changes (attention, matrices that belong to no layer).
        lookups: Matrix name -> number of products with its right factor alone, r n multiply-adds each where it is
            factored and nothing while it is dense: the rows of an embedding that are looked up.
    """

    positions: Mapping[str, int]
    other_macs: int
    lookups: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class CompressibleModel(Protocol):
    """A recogniser that can be compressed: a `torch.nn.Module` with these members besides.

    The matrices that `layers` names must be parameters of `torch.nn.Linear`, `Conv1d`, `Embedding`,
    `MultiheadAttention`, `LSTM`, `LSTMCell`, `GRU` or `GRUCell` modules, which compression replaces by their low-rank
    forms; nothing else of the model changes.
    """

    architecture: str
    """Name under which `register_architecture` knows the class; written into saved files."""

    storage_dtype: torch.dtype
    """The number format of the saved file, but for what `quantise` stores in int8; factors are rounded to it before
    anything is measured."""

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


State = tuple[Tensor, ...]
"""What flows from one stage of a model to the next."""


@runtime_checkable
class StagedModel(CompressibleModel, Protocol):
    """A recogniser whose `recognise` is `begin`, then `advance` through its `stages`, then `finish`.

    A model need not be one. Where it is, configurations that share their first layers share their work.
    """

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The names of the layers in each stage; all others belong to `finish`. `begin` has none."""

    def begin(self, waveforms: Sequence[Tensor]) -> State:
        """What one batch of waveforms looks like to the first stage, whatever the ranks."""

    def advance(self, stage: int, state: State) -> State:
        """Compute one stage; `state` must stay as it is."""

    def finish(self, waveforms: Sequence[Tensor], state: State) -> list[Hypothesis]:
        """From the last stage to the transcripts."""


@runtime_checkable
class PredictiveModel(StagedModel, Protocol):
    """A recogniser that predicts transcripts unit by unit, and says how probable it finds each.

    A model need not be one. Where it is, the distributions of a compressed model can be compared with the original's.
    """

    def predict(self, waveforms: Sequence[Tensor], state: State, texts: Sequence[str]) -> list[Tensor]:
        """From the last stage to the distributions of the next unit, the model being told the transcript so far.

        Args:
            waveforms: One batch, as `finish` is given them.
            state: As `finish` is given it.
            texts: The transcript of each utterance, as the model writes it.

        Returns:
            For each utterance the log-probabilities of its units and of its end, (units + 1, vocabulary).
        """


@runtime_checkable
class GroupedModel(CompressibleModel, Protocol):
    """A recogniser of which several compressed forms can be computed at once, as it pays on a GPU.

    A model need not be one.
    """

    @staticmethod
    def recognise_side_by_side(forms: Sequence[Any], waveforms: Sequence[Tensor]) -> list[list[Hypothesis]]:
        """What each form of the same model recognises in one batch of waveforms: (forms, waveforms)."""


def in_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of utterances of these lengths in the canonical batches: `BATCH` at most, sorted by length."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def recognise_in_batches(model: CompressibleModel, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
    """What a model recognises in any number of waveforms, in their order, batch by batch (`in_batches`)."""
    found: dict[int, Hypothesis] = {}
    for batch in in_batches([waveform.numel() for waveform in waveforms]):
        found.update(zip(batch, model.recognise([waveforms[index] for index in batch]), strict=True))
    return [found[index] for index in range(len(waveforms))]


def recognise_in_stages(model: StagedModel, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
    """What a staged model recognises in one batch, through all of its stages."""
    if not waveforms:
        return []
    with torch.inference_mode():
        state = model.begin(waveforms)
        for stage in range(len(model.stages)):
            state = model.advance(stage, state)
        return model.finish(waveforms, state)


def require_model(model: object) -> None:
    """Check that something may be a model, before its parts are asked for.

    Raises:
        ValueError: It is no module with layers.
    """
    # What torch.compile returned passes on what it is asked for; `weights_of` tells what to do with it.
    compiled = isinstance(model, nn.Module) and "_orig_mod" in model._modules
    if not compiled and not (isinstance(model, nn.Module) and hasattr(type(model), "layers")):
        raise ValueError(f"model must be a CompressibleModel, such as load_model returns, got a {type(model).__name__}")


def require_length(model: CompressibleModel, num_samples: int, name: str) -> None:
    """Check that speech is not shorter than a model's `shortest`, the samples that it needs; a model need not have one.

    Args:
        model: The recogniser.
        num_samples: The length of the speech.
        name: The name of the speech, for the error.

    Raises:
        ValueError: It is shorter.
    """
    shortest = getattr(model, "shortest", 1)
    if num_samples < shortest:
        raise ValueError(
            f"{name}: {num_samples} samples are too few for the model, which needs {shortest}: leave it out"
        )
