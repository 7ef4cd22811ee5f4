"""The base class of recognisers, with default implementations."""

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
    """A base class that implements `CompressibleModel` except for three methods.

    A subclass implements `recognise`, `workload` and `to_config`, and overrides other methods where necessary. The
    layers are found in the modules that its constructor assigns (see `find_layers`).

    Attributes:
        training_only: See `CompressibleModel`.
        no_layers: Paths of modules that must stay dense.
        encoder_path: Path of the encoder for `encoder_parameters`; empty if there is none.
    """

    architecture: str
    storage_dtype: torch.dtype = torch.float32
    training_only: tuple[str, ...] = ()
    no_layers: tuple[str, ...] = ()
    encoder_path: str = ""

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that `find_layers` finds, in forward order, named without the prefix ``network.``."""
        layers = find_layers(self, exclude=(*self.training_only, *self.no_layers))
        return tuple(replace(layer, name=layer.name.removeprefix("network.")) for layer in layers)

    @property
    def decoder_settings(self) -> Mapping[str, Any]:
        """All settings that the transcripts depend on, JSON-able; by default none."""
        return {}

    @cached_property
    def shortest(self) -> int:
        """The smallest number of samples that the model accepts (see `require_length`)."""
        return 1

    @cached_property
    def window(self) -> int | None:
        """The number of samples that the model hears at once, padded if there are fewer; None: as many as there are."""
        return None

    @abstractmethod
    def recognise(self, waveforms: Sequence[Tensor]) -> list[Hypothesis]:
        """See `CompressibleModel`."""

    def transcribe(self, waveforms: Sequence[Tensor]) -> list[str]:
        """Return the transcripts of any number of waveforms: samples at 16 kHz, (samples,) each.

        Full scale is 1 for floats; int16 samples, NumPy arrays and the shape (1, samples) are converted.

        Raises:
            ValueError: The argument is not a list, or an item is not a waveform, is empty, or holds NaN.
        """
        return [hypothesis.text for hypothesis in recognise_in_batches(self, as_waveforms(waveforms))]

    def normalise(self, text: str) -> str:
        """Return the text in lower case, with only letters (and their marks), digits and apostrophes of any script."""
        return words(text)

    @abstractmethod
    def workload(self, num_samples: Sequence[int], texts: Sequence[str]) -> Workload:
        """See `CompressibleModel`."""

    @abstractmethod
    def to_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, JSON-able."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a model made by the constructor with these arguments, in evaluation mode."""
        return cls(**config).eval()


def merge_parametrizations(network: nn.Module) -> None:
    """Replace computed weights (weight normalisation) by their values, in place, so that the network pickles."""
    for module in list(network.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            module._load_state_dict_pre_hooks.clear()  # weight normalisation's hook for files of older torch versions
