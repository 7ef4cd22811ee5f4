"""The unit of speech data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["SAMPLE_RATE", "Utterance"]

SAMPLE_RATE = 16_000
"""Samples a second of every waveform in ShrinkML."""


@dataclass(frozen=True, slots=True, eq=False)
class Utterance:
    """One recorded sentence.

    Attributes:
        id: Unique in its set, ``"1688-142285-0000"``.
        speaker: Speaker or voice.
        waveform: float32 samples in [-1, 1] at 16 kHz, shape (samples,).
        text: What was said.
    """

    id: str
    speaker: str
    waveform: Tensor
    text: str

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.waveform.numel() / SAMPLE_RATE
