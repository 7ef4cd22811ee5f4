"""The protocols of recognisers: the interface that compression, evaluation and the environments use."""

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
    "require_predictions",
]

BATCH = 16
"""Utterances in a batch: larger batches are not faster on a CPU core and need more padding."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The result of recognising one utterance.

    Attributes:
        text: The transcript, as the model writes it (not normalised).
        capped: Whether decoding reached the utterance's token limit; always False for models without one.
    """

    text: str
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """The number of operations that a set of utterances takes in a model, independent of the ranks.

    Attributes:
        positions: Matrix name -> number of vectors that the matrix is multiplied with.
        other_macs: Multiply-adds that do not depend on ranks (attention scores, matrices that belong to no layer).
        lookups: Matrix name -> number of products with the right factor alone if the matrix is factored, which cost
            nothing if it is dense: the rows of an embedding that are looked up.
    """

    positions: Mapping[str, int]
    other_macs: int
    lookups: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class CompressibleModel(Protocol):
    """A recogniser that can be compressed: a `torch.nn.Module` with these additional members.

    The matrices that `layers` names must be parameters of `torch.nn.Linear`, `Conv1d`, `Embedding`,
    `MultiheadAttention`, `LSTM`, `LSTMCell`, `GRU` or `GRUCell` modules, which compression replaces by their low-rank
    forms; nothing else of the model changes.
    """

    architecture: str
    """The name with which `register_architecture` registered the class; saved files contain it."""

    storage_dtype: torch.dtype
    """The dtype of parameters in saved files, except matrices that `quantise` stores in int8. Factors are rounded to it
    before they are measured."""

    @property
    def training_only(self) -> tuple[str, ...]:
        """Paths of modules and parameters that only training uses (a CTC head); they are neither counted nor saved."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the *original* in forward order; a compressed model returns the same layers."""

    @property
    def decoder_settings(self) -> Mapping[str, Any]:
        """JSON-able settings that the transcripts depend on, in addition to the weights and the waveforms."""

    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        """Recognise one batch of waveforms: float32 samples at 16 kHz, (samples,) each.

        A transcript must not depend on the other waveforms of the batch.
        """

    def transcribe(self, waveforms: Sequence[Tensor]) -> list[str]:
        """Return the transcripts of any number of waveforms."""

    def normalise(self, text: str) -> str:
        """Normalise a reference or a hypothesis for the word error rate."""

    def workload(self, num_samples: Sequence[int], texts: Sequence[str]) -> Workload:
        """Return the workload of utterances.

        Args:
            num_samples: Length of each utterance, in samples at 16 kHz.
            texts: Reference transcript of each utterance.
        """

    def to_config(self) -> dict[str, Any]:
        """Return the JSON-able argument of `from_config`."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a model of this configuration, whose parameters are not loaded yet."""


State = tuple[Tensor, ...]
"""The tensors that one stage of a model passes to the next."""


@runtime_checkable
class StagedModel(CompressibleModel, Protocol):
    """A recogniser whose `recognise` is `begin`, then `advance` through its `stages`, then `finish`.

    This protocol is optional. With it, configurations with the same ranks in the first stages share their results.
    """

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The names of the layers in each stage; all other layers belong to `finish`, none to `begin`.

        A layer belongs to the first stage that needs one of its matrices.
        """

    def begin(self, waveforms: Sequence[Tensor]) -> State:
        """Return the input of the first stage for a batch of waveforms; it must not depend on the ranks."""

    def advance(self, stage: int, state: State) -> State:
        """Compute one stage from the state before it, which must not be changed."""

    def finish(self, waveforms: Sequence[Tensor], state: State) -> list[Hypothesis]:
        """Return the transcripts, given the state after the last stage."""


@runtime_checkable
class PredictiveModel(StagedModel, Protocol):
    """A recogniser that predicts transcripts unit by unit and returns the distribution of each unit.

    This protocol is optional. With it, the divergence of a compressed model from the original can be measured.
    """

    def predict(self, waveforms: Sequence[Tensor], state: State, texts: Sequence[str]) -> list[Tensor]:
        """Return the distributions of the next unit under teacher forcing with given transcripts.

        Args:
            waveforms: One batch, float32 samples at 16 kHz, (samples,) each.
            state: The state after the last stage.
            texts: The transcript of each utterance, as the model writes it.

        Returns:
            For each utterance the log-probabilities at each of its units and at its end, (units + 1, vocabulary).
        """


@runtime_checkable
class GroupedModel(CompressibleModel, Protocol):
    """A recogniser that can compute several compressed versions of a model at once, which is faster on a GPU.

    This protocol is optional.
    """

    @staticmethod
    def recognise_side_by_side(forms: Sequence[Any], waveforms: Sequence[Tensor]) -> list[list[Hypothesis]]:
        """Recognise one batch of waveforms with several compressed versions of one model: (forms, waveforms)."""


def in_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return the canonical batches of utterances, sorted by length, at most `BATCH` in each, as lists of indices."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def recognise_in_batches(model: CompressibleModel, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
    """Recognise any number of waveforms, in the canonical batches of `in_batches`; return them in their order."""
    found: dict[int, Hypothesis] = {}
    for batch in in_batches([waveform.numel() for waveform in waveforms]):
        found.update(zip(batch, model.recognise([waveforms[index] for index in batch]), strict=True))
    return [found[index] for index in range(len(waveforms))]


def recognise_in_stages(model: StagedModel, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
    """Recognise one batch of waveforms with a staged model, stage by stage."""
    if not waveforms:
        return []
    with torch.inference_mode():
        state = model.begin(waveforms)
        for stage in range(len(model.stages)):
            state = model.advance(stage, state)
        return model.finish(waveforms, state)


def require_model(model: object) -> None:
    """Check that an object looks like a model, before its attributes are used.

    Raises:
        ValueError: The object is not a module with the attribute `layers`.
    """
    # The wrapper that torch.compile returns forwards attributes; `weights_of` raises an error with advice for it.
    compiled = isinstance(model, nn.Module) and "_orig_mod" in model._modules
    if not compiled and not (isinstance(model, nn.Module) and hasattr(type(model), "layers")):
        raise ValueError(f"model must be a CompressibleModel, such as load_model returns, got a {type(model).__name__}")


def in_training_mode(model: object) -> bool:
    """Return whether a module or any part of it is in training mode."""
    return isinstance(model, nn.Module) and any(module.training for module in model.modules())


def require_predictions(model: object) -> PredictiveModel:
    """Return a model that predicts how probable a transcript is.

    Raises:
        ValueError: It does not.
    """
    if not isinstance(model, PredictiveModel):
        raise ValueError(
            f"a {type(model).__name__} does not predict how probable a transcript is: it lacks the method `predict` of "
            "shrinkml_env.compression.PredictiveModel"
        )
    return model


def require_length(model: CompressibleModel, num_samples: int, name: str) -> None:
    """Check that speech is at least as long as a model needs: its optional attribute `shortest`, in samples.

    Args:
        model: The recogniser.
        num_samples: Length of the speech, in samples at 16 kHz.
        name: Name of the speech, for the error message.

    Raises:
        ValueError: The speech is too short.
    """
    shortest = getattr(model, "shortest", 1)
    if num_samples < shortest:
        raise ValueError(
            f"{name}: {num_samples} samples are too few for the model, which needs {shortest}: leave it out"
        )
