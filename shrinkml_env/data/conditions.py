"""Noise and reverberation: pure functions on waveforms, for the held-out sets and for augmentation in training.

A waveform is a float32 tensor of shape ``(samples,)`` at 16 kHz. All random numbers come from the generator that is
passed in, so that equal generator states give equal samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shrinkml_env.data.utterance import SAMPLE_RATE

__all__ = ["NOISE_KINDS", "add_noise", "babble", "reverberate", "room_impulse_response", "synthetic_noise"]

NOISE_KINDS = ("white", "pink", "brown", "hum")
_SPECTRAL_SLOPES = {"white": 0.0, "pink": 0.5, "brown": 1.0}
_LOWEST_NOISE_HZ = 20.0


def add_noise(waveform: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """Add noise to speech at a signal-to-noise ratio.

    Args:
        waveform: Speech, ``(samples,)``.
        noise: Noise of at least 1 sample; it is repeated or cut to the speech's length.
        snr_db: Ratio of mean powers over the whole utterance, in decibels.

    Returns:
        The speech, unchanged in level, plus the scaled noise, ``(samples,)``. It may exceed [-1, 1].

    Raises:
        ValueError: The noise is empty or silent.
    """
    noise_power = noise.square().mean().item() if noise.numel() else 0.0
    if not noise_power > 0.0:
        raise ValueError("the noise is empty or silent: no signal-to-noise ratio can be reached with it")
    samples = waveform.numel()
    noise = noise.repeat(-(-samples // noise.numel()))[:samples]
    power = waveform.square().mean() / max(noise.square().mean().item(), 1e-12)
    return waveform + noise * torch.sqrt(power * 10.0 ** (-snr_db / 10.0))


def reverberate(waveform: Tensor, rir: Tensor) -> Tensor:
    """Convolve speech with a room impulse response; length and level do not change.

    Args:
        waveform: Speech, ``(samples,)``.
        rir: Impulse response, ``(taps,)``; its first tap is the direct sound, so that the speech is not delayed.

    Returns:
        ``(samples,)``: the tail beyond the last sample is cut, and the root mean square equals the input's.
    """
    samples = waveform.numel()
    size = _fast_fft_size(samples + rir.numel() - 1)
    wet: Tensor = torch.fft.irfft(torch.fft.rfft(waveform, size) * torch.fft.rfft(rir, size), size)[:samples]
    gain: Tensor = torch.sqrt(waveform.square().mean() / wet.square().mean().clamp(min=1e-12))
    return wet * gain


def synthetic_noise(kind: str, num_samples: int, generator: torch.Generator) -> Tensor:
    """Return stationary noise of unit root mean square.

    Args:
        kind: ``"white"``, ``"pink"`` (1/f power), ``"brown"`` (1/f^2) or ``"hum"`` (50 or 60 Hz mains and overtones).
        num_samples: Length, at least 1.
        generator: Source of random numbers.

    Returns:
        ``(num_samples,)`` float32.

    Raises:
        ValueError: The kind is unknown.
    """
    if kind == "hum":
        noise = _hum(num_samples, generator)
    elif kind in _SPECTRAL_SLOPES:
        size = _fast_fft_size(num_samples)
        spectrum = torch.fft.rfft(torch.randn(size, generator=generator))
        frequencies = torch.fft.rfftfreq(size, 1.0 / SAMPLE_RATE).clamp(min=_LOWEST_NOISE_HZ)
        noise = torch.fft.irfft(spectrum * frequencies ** -_SPECTRAL_SLOPES[kind], size)[:num_samples]
    else:
        raise ValueError(f"unknown noise kind {kind!r}: choose one of {', '.join(NOISE_KINDS)}")
    return noise / noise.square().mean().sqrt()


def babble(talkers: Sequence[Tensor], num_samples: int, generator: torch.Generator) -> Tensor:
    """Return babble: the sum of several talkers' speech, equally loud, looped from random starting points.

    Args:
        talkers: One speech waveform for each talker, at least one, none silent.
        num_samples: Length, at least 1.
        generator: Source of random numbers.

    Returns:
        ``(num_samples,)`` of unit root mean square.
    """
    mixture = torch.zeros(num_samples)
    for talker in talkers:
        start = int(torch.randint(talker.numel(), (1,), generator=generator))
        loop = talker.roll(-start).repeat(-(-num_samples // talker.numel()))[:num_samples]
        mixture += loop / talker.square().mean().sqrt()
    return mixture / mixture.square().mean().sqrt()


def room_impulse_response(rt60: float, generator: torch.Generator) -> Tensor:
    """Return a synthetic impulse response: direct sound, early reflections, and an exponentially decaying diffuse tail.

    Args:
        rt60: Seconds in which the reverberation falls by 60 dB, above 0; 0.2 to 0.7 for typical rooms.
        generator: Source of the reflections, the tail, and the direct-to-reverberant ratio, 0 to 10 dB.

    Returns:
        ``(taps,)`` float32, rt60 seconds long; the first tap, the direct sound, is 1.

    Raises:
        ValueError: rt60 is not a positive number.
    """
    if not (math.isfinite(rt60) and rt60 > 0.0):
        raise ValueError(f"rt60 must be a positive number of seconds, not {rt60}")
    taps = max(int(rt60 * SAMPLE_RATE), 2)
    decay = 10.0 ** (-3.0 * torch.arange(taps) / (rt60 * SAMPLE_RATE))
    response = torch.randn(taps, generator=generator) * decay
    # The diffuse field builds up over the first 10 ms, while single reflections still stand out.
    onset = min(SAMPLE_RATE // 100, taps)
    response[:onset] *= torch.linspace(0.0, 1.0, onset)
    count = int(torch.randint(4, 9, (1,), generator=generator))
    times = torch.randint(1, min(SAMPLE_RATE // 25, taps), (count,), generator=generator)
    signs = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1.0
    response[times] += signs * 4.0 * decay[times]
    response[0] = 0.0
    direct_to_reverberant_db = 10.0 * torch.rand(1, generator=generator)
    response *= torch.sqrt(10.0 ** (-direct_to_reverberant_db / 10.0) / response.square().sum().clamp(min=1e-12))
    response[0] = 1.0
    return response


def _hum(num_samples: int, generator: torch.Generator) -> Tensor:
    mains = (50.0, 60.0)[int(torch.randint(2, (1,), generator=generator))]
    harmonics = torch.arange(1, 13, dtype=torch.float32)
    amplitudes = torch.rand(len(harmonics), generator=generator) / harmonics.sqrt()
    phases = 2.0 * math.pi * torch.rand(len(harmonics), generator=generator)
    seconds = torch.arange(num_samples) / SAMPLE_RATE
    tones = torch.sin(2.0 * math.pi * mains * harmonics[:, None] * seconds + phases[:, None])
    return (amplitudes[:, None] * tones).sum(0) + 0.05 * torch.randn(num_samples, generator=generator)


def _fast_fft_size(minimum: int) -> int:
    """Return the smallest 2^a, 3 * 2^a or 5 * 2^a that is at least the minimum; FFTs of these sizes are fast."""
    return min(factor << max(0, math.ceil(math.log2(minimum / factor))) for factor in (1, 3, 5))
