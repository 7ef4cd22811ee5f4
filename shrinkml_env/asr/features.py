"""Log-mel features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shrinkml_env.data.torchaudio_compat import import_torchaudio
from shrinkml_env.data.utterance import SAMPLE_RATE

__all__ = ["FFT", "FLOOR", "HOP", "MIN_STD", "WINDOW", "LogMel", "lengths_mask", "num_frames"]

HOP = SAMPLE_RATE // 100
"""Samples from one frame to the next: 10 ms."""

WINDOW = SAMPLE_RATE // 40
"""Samples in one frame's window: 25 ms."""

FFT = 512
"""Samples in the Fourier transform; the window is centred in them."""

FLOOR = 1e-6
"""Added to energies before their logarithm."""

MIN_STD = 1e-3
"""Added to standard deviations before dividing by them."""


def num_frames(num_samples: int) -> int:
    """Return the number of frames of a waveform."""
    return num_samples // HOP + 1


def lengths_mask(lengths: Tensor, size: int) -> Tensor:
    """Return a mask, (batch, size), that is True at the first `lengths[b]` of `size` positions."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


class LogMel(nn.Module):
    """Log-mel energies, normalised to zero mean and unit variance per utterance and channel.

    Frames are 25 ms windows every 10 ms. Each utterance is computed alone, so that its features do not depend on the
    batch.
    """

    def __init__(self, channels: int = 80) -> None:
        super().__init__()
        filters = import_torchaudio().functional.melscale_fbanks(
            FFT // 2 + 1, 20.0, SAMPLE_RATE / 2, channels, SAMPLE_RATE
        )
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    window: Tensor
    filters: Tensor

    @torch.no_grad()
    def one(self, waveform: Tensor) -> Tensor:
        """Return the features of one waveform: (samples,) -> (frames, channels)."""
        waveform = waveform.to(self.window.device)
        # The STFT pads by reflection, which needs more samples than half the transform.
        if waveform.numel() <= FFT // 2:
            waveform = nn.functional.pad(waveform, (0, FFT // 2 + 1 - waveform.numel()))
        spectrogram = import_torchaudio().functional.spectrogram
        power = spectrogram(waveform, 0, self.window, FFT, HOP, WINDOW, 2.0, False)
        energies = torch.log(power.T @ self.filters + FLOOR)
        std, mean = torch.std_mean(energies, dim=0, correction=0)
        return (energies - mean) / (std + MIN_STD)

    def forward(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the zero-padded features of waveforms, (batch, frames, channels), and their lengths, (batch,)."""
        features = [self.one(waveform) for waveform in waveforms]
        lengths = torch.tensor([len(feature) for feature in features], device=self.window.device)
        return nn.utils.rnn.pad_sequence(features, batch_first=True), lengths
