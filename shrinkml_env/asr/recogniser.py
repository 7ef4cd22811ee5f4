"""A base for adapters: what most recognisers answer in the same way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from shrinkml_env.asr.text import words
from shrinkml_env.compression import Hypothesis, Layer, Workload, find_layers, recognise_in_batches
from shrinkml_env.data.utterance import as_waveforms

__all__ = ["Recogniser", "merge_parametrizations"]


class Recogniser(nn.Module, ABC):
    """A `CompressibleModel` but for three methods.

    Write `recognise`, `workload` and `to_config`; override whatever else does not fit. The modules that are assigned in
    the constructor are searched for layers (see `find_layers`).

    Attributes:
        training_only: See `CompressibleModel`.
        no_layers: Paths of modules that no search is to decide about.
        encoder_path: Path of the encoder, if there is one whose size is of interest (see `encoder_parameters`).
    """

    architecture: str
    storage_dtype: torch.dtype = torch.float32
    training_only: tuple[str, ...] = ()
    no_layers: tuple[str, ...] = ()
    encoder_path: str = ""

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """What `find_layers` finds; the name of a module `network` that holds everything is left out."""
        layers = find_layers(self, exclude=(*self.training_only, *self.no_layers))
        return tuple(replace(layer, name=layer.name.removeprefix("network.")) for layer in layers)

    @property
    def decoder_settings(self) -> Mapping[str, Any]:
        """Nothing to set."""
        return {}

    @cached_property
    def shortest(self) -> int:
        """The number of samples below which the model cannot hear an utterance (see `require_length`)."""
        return 1

    @abstractmethod
    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        """See `CompressibleModel`."""

    def transcribe(self, waveforms: Sequence[Tensor]) -> list[str]:
        """Return the texts of any number of waveforms: samples at 16 kHz, (samples,) each.

        Floats have full scale at 1; int16, NumPy arrays and (1, samples) are converted.

        Raises:
            ValueError: It is no list, or one of them is something else, is empty, or holds NaN.
        """
        return [hypothesis.text for hypothesis in recognise_in_batches(self, as_waveforms(waveforms))]

    def normalise(self, text: str) -> str:
        """Return the text in lower case: letters with their marks, digits and apostrophes, in any script."""
        return words(text)

    @abstractmethod
    def workload(self, num_samples: Sequence[int], texts: Sequence[str]) -> Workload:
        """See `CompressibleModel`."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Calls the constructor."""
        return cls(**config).eval()


def merge_parametrizations(network: nn.Module) -> None:
    """Replace computed weights (weight normalisation) by their values, in place; what computes them does not pickle."""
    for module in list(network.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            module._load_state_dict_pre_hooks.clear()  # Weight normalisation's, for files of another torch.
