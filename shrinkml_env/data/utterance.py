"""Utterances, and the conversion of waveforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["LOUDEST", "SAMPLE_RATE", "Utterance", "as_waveform", "as_waveforms"]

SAMPLE_RATE = 16_000
"""The sampling rate of every waveform in ShrinkML, Hz."""

LOUDEST = 16.0
"""The largest accepted magnitude of float samples. Full scale is 1, which filtering or mixing may exceed a little;
larger values mean that the samples are at the scale of int16."""


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """One recorded sentence.

    Attributes:
        id: Unique id in its set, such as ``"1688-142285-0000"``.
        speaker: Speaker or voice.
        waveform: Samples at 16 kHz, converted by `as_waveform` to float32 of shape (samples,).
        text: The reference transcript.

    Raises:
        ValueError: The waveform is not valid (see `as_waveform`).
    """

    id: str
    speaker: str
    waveform: Tensor
    text: str

    def __post_init__(self) -> None:
        """Check and convert the waveform."""
        object.__setattr__(self, "waveform", as_waveform(self.waveform, f"utterance {self.id!r}"))

    @property
    def duration(self) -> float:
        """The duration in seconds."""
        return self.waveform.numel() / SAMPLE_RATE


def as_waveform(samples: Any, name: str) -> Tensor:
    """Convert samples to float32 of shape (samples,), with full scale at 1.

    Args:
        samples: A tensor or NumPy array, (samples,) or (1, samples): floats with full scale at 1, or int16.
        name: Name of the waveform, for error messages.

    Raises:
        ValueError: The samples have another type or shape, are empty, hold NaN or infinity, or are at another scale.
    """
    given = samples
    if isinstance(samples, np.ndarray) and samples.dtype.kind in "fi":
        # torch supports neither foreign byte orders nor float128, and warns about read-only arrays.
        kind = np.float32 if samples.dtype.kind == "f" else samples.dtype.newbyteorder("=")
        with np.errstate(over="ignore"):
            samples = torch.from_numpy(np.require(samples, kind, ["C", "W"]))
    if (
        not isinstance(samples, Tensor)
        or not (samples.is_floating_point() or samples.dtype == torch.int16)
        or samples.shape[:-1] not in ((), (1,))
        or samples.dim() == 0
    ):
        raise ValueError(
            f"{name}: a waveform is a tensor or array of one channel at {SAMPLE_RATE} Hz, of shape (samples,) or "
            f"(1, samples), in floats from -1 to 1 or in int16; got {_described(given)}"
        )
    waveform: Tensor = samples.reshape(-1)
    if not waveform.numel():
        raise ValueError(f"{name}: holds no sample")
    if waveform.dtype == torch.int16:
        return waveform.to(torch.float32) / 2**15
    waveform = waveform.to(torch.float32)
    peak = float(waveform.abs().max())
    if not np.isfinite(peak):
        raise ValueError(f"{name}: holds samples that are NaN or infinite: write or record it again")
    if peak > LOUDEST:
        raise ValueError(
            f"{name}: holds samples as large as {peak:.0f}, where full scale is 1: divide those of int16 by 32768"
        )
    return waveform


def as_waveforms(waveforms: Any) -> list[Tensor]:
    """Convert the argument of `transcribe`, a list of waveforms, to float32 of shape (samples,) each.

    Raises:
        ValueError: The argument is not a list, or an item is not a valid waveform (see `as_waveform`).
    """
    if not isinstance(waveforms, Sequence) or isinstance(waveforms, str):
        raise ValueError(f"transcribe takes a list of waveforms, [waveform, ...], got one {_described(waveforms)}")
    return [as_waveform(waveform, f"waveform {index}") for index, waveform in enumerate(waveforms)]


def _described(value: Any) -> str:
    """Describe a value for error messages: ``"float32 of shape (2, 16000)"``, ``"list"``."""
    if isinstance(value, np.ndarray | Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__
