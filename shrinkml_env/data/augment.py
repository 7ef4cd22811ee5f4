"""Augmentation of speech: speed, reverberation, noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shrinkml_env.data.conditions import (
    NOISE_KINDS,
    add_noise,
    reverberate,
    room_impulse_response,
    synthetic_noise,
)
from shrinkml_env.data.torchaudio_compat import import_torchaudio

__all__ = ["Augmentation"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """A random change of speed, reverberation and noise for each utterance.

    Attributes:
        speeds: Speed factors, equally likely, each a fraction of small integers (Ko et al. 2015).
        reverberation: Share of the utterances with synthetic reverberation, in [0, 1].
        rt60: Range of the reverberation time, seconds.
        noise: Share of the utterances with synthetic noise, in [0, 1].
        snr_db: Range of the signal-to-noise ratio, dB.
    """

    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    reverberation: float = 0.3
    rt60: tuple[float, float] = (0.15, 0.7)
    noise: float = 0.4
    snr_db: tuple[float, float] = (3.0, 25.0)

    def __call__(self, waveform: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a waveform: (samples,) -> (samples / speed,). The generator alone determines the result."""

        def uniform(low: float = 0.0, high: float = 1.0) -> float:
            return low + (high - low) * float(torch.rand(1, generator=generator))

        def choice(count: int) -> int:
            return int(torch.randint(count, (1,), generator=generator))

        speed = self.speeds[choice(len(self.speeds))]
        if speed != 1.0:
            # The samples are taken to have `speed` times their rate, and are resampled to the true rate.
            waveform = import_torchaudio().functional.resample(waveform, round(100 * speed), 100)
        if uniform() < self.reverberation:
            waveform = reverberate(waveform, room_impulse_response(uniform(*self.rt60), generator))
        if uniform() < self.noise:
            noise = synthetic_noise(NOISE_KINDS[choice(len(NOISE_KINDS))], waveform.numel(), generator)
            waveform = add_noise(waveform, noise, uniform(*self.snr_db))
        return waveform
