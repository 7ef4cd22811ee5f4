"""The unit of speech data, and what samples may come as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["LOUDEST", "SAMPLE_RATE", "Utterance", "as_waveform", "as_waveforms"]

SAMPLE_RATE = 16_000
"""Samples a second of every waveform in ShrinkML."""

LOUDEST = 16.0
"""The magnitude up to which float samples are believed: full scale is 1, which a filter or a sum of signals exceeds a
little; at the scale of int16 even a whisper is far louder."""


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """One recorded sentence.

    Attributes:
        id: Unique in its set, ``"1688-142285-0000"``.
        speaker: Speaker or voice.
        waveform: Samples at 16 kHz; given as `as_waveform` takes them, kept as float32 of shape (samples,).
        text: The words that were said.

    Raises:
        ValueError: The waveform is none.
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
        """Seconds."""
        return self.waveform.numel() / SAMPLE_RATE


def as_waveform(samples: Any, name: str) -> Tensor:
    """Return samples as float32 with full scale at 1, of shape (samples,).

    Args:
        samples: A tensor or NumPy array, (samples,) or (1, samples): floats with full scale at 1, or int16.
        name: The owner's name, for errors.

    Raises:
        ValueError: It is something else, is empty, holds NaN or infinity, or is at another scale.
    """
    given = samples
    if isinstance(samples, np.ndarray) and samples.dtype.kind in "fi":
        # torch takes neither foreign byte orders nor float128, and warns of arrays that cannot be written.
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
    """Return what `transcribe` was given, a list of waveforms, as float32 of shape (samples,) each.

    Raises:
        ValueError: It is no list, or one of them is no waveform (see `as_waveform`).
    """
    if not isinstance(waveforms, Sequence) or isinstance(waveforms, str):
        raise ValueError(f"transcribe takes a list of waveforms, [waveform, ...], got one {_described(waveforms)}")
    return [as_waveform(waveform, f"waveform {index}") for index, waveform in enumerate(waveforms)]


def _described(value: Any) -> str:
    """Return what a value is, for errors: ``"float32 of shape (2, 16000)"``, ``"list"``."""
    if isinstance(value, np.ndarray | Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__
