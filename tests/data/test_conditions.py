"""Noise and reverberation against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkml_env.data.conditions import (
    NOISE_KINDS,
    add_noise,
    babble,
    reverberate,
    room_impulse_response,
    synthetic_noise,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def speech(samples: int, seed: int = 1) -> torch.Tensor:
    return 0.05 * torch.randn(samples, generator=generator(seed))


@settings(max_examples=30, deadline=None)
@given(snr_db=st.floats(-10.0, 40.0), samples=st.integers(10, 5000), noise_samples=st.integers(10, 5000))
def test_noise_has_the_requested_ratio(snr_db: float, samples: int, noise_samples: int) -> None:
    clean = speech(samples).double()
    noisy = add_noise(clean, speech(noise_samples, seed=2).double(), snr_db)
    added = (noisy - clean).numpy()
    ratio = 10.0 * np.log10(np.mean(clean.numpy() ** 2) / np.mean(added**2))
    assert ratio == pytest.approx(snr_db, abs=1e-4)


def test_noise_shorter_than_the_speech_repeats() -> None:
    clean, noise = speech(10), torch.tensor([1.0, -2.0, 3.0])
    added = add_noise(clean, noise, 0.0) - clean
    torch.testing.assert_close(added[3:6], added[:3])
    torch.testing.assert_close(added[:3] / added[0], noise)


@pytest.mark.parametrize("noise", [torch.zeros(5), torch.zeros(0)])
def test_silent_noise_is_refused(noise: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="silent"):
        add_noise(speech(10), noise, 10.0)


def test_reverberation_is_convolution_at_the_inputs_level() -> None:
    clean, rir = speech(1000), torch.tensor([1.0, 0.0, 0.5, -0.25])
    expected = np.convolve(clean.numpy(), rir.numpy())[:1000]
    expected *= np.sqrt(np.mean(clean.numpy() ** 2) / np.mean(expected**2))
    np.testing.assert_allclose(reverberate(clean, rir).numpy(), expected, atol=1e-6)


def test_a_room_without_walls_changes_nothing() -> None:
    clean = speech(777)
    torch.testing.assert_close(reverberate(clean, torch.tensor([1.0])), clean, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("kind", NOISE_KINDS)
@pytest.mark.parametrize("samples", [1, 999, 48_000])
def test_synthetic_noise_is_seeded_and_of_unit_power(kind: str, samples: int) -> None:
    noise = synthetic_noise(kind, samples, generator())
    assert noise.shape == (samples,)
    assert noise.dtype == torch.float32
    assert noise.square().mean().item() == pytest.approx(1.0, rel=1e-4)
    assert torch.equal(noise, synthetic_noise(kind, samples, generator()))


@pytest.mark.parametrize(("kind", "db_per_octave"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02)])
def test_noise_colours(kind: str, db_per_octave: float) -> None:
    samples = 1 << 18
    power = np.abs(np.fft.rfft(synthetic_noise(kind, samples, generator()).numpy())) ** 2
    octaves = np.array([100, 200, 400, 800, 1600, 3200])
    levels = [
        10 * np.log10(power[int(low * samples / 16_000) : int(2 * low * samples / 16_000)].mean()) for low in octaves
    ]
    slope = np.polyfit(np.arange(len(octaves)), levels, 1)[0]
    assert slope == pytest.approx(db_per_octave, abs=0.15)


def test_unknown_noise_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"purple.*white, pink"):
        synthetic_noise("purple", 10, generator())


def test_babble_mixes_all_talkers_equally() -> None:
    low, high = (torch.sin(2 * torch.pi * f * torch.arange(16_000) / 16_000) for f in (100.0, 1000.0))
    spectrum = torch.fft.rfft(babble([low, 20.0 * high], 16_000, generator())).abs()
    assert spectrum[100].item() == pytest.approx(spectrum[1000].item(), rel=1e-3)
    assert set(spectrum.topk(2).indices.tolist()) == {100, 1000}


@pytest.mark.parametrize("rt60", [0.2, 0.45, 0.7])
def test_rooms_decay_by_60_db_in_rt60(rt60: float) -> None:
    # The energy that is still to come (Schroeder's integral), over many rooms, falls along a straight line in dB.
    energy = sum(room_impulse_response(rt60, generator(seed)).double() ** 2 for seed in range(200))
    assert isinstance(energy, torch.Tensor)
    remaining = energy.flip(0).cumsum(0).flip(0)
    start, end = (int(fraction * rt60 * 16_000) for fraction in (0.15, 0.55))
    drop = 10.0 * torch.log10(remaining[start] / remaining[end]).item()
    assert drop / (0.4 * 60.0) == pytest.approx(1.0, abs=0.1)


def test_a_rooms_first_tap_is_its_loudest() -> None:
    for seed in range(50):
        rir = room_impulse_response(0.5, generator(seed))
        assert rir[0].item() == 1.0 == rir.abs().max().item()
        assert rir[1:].square().sum().item() <= 1.0 + 1e-5


@pytest.mark.parametrize("rt60", [0.0, -1.0, float("nan")])
def test_impossible_rooms_are_refused(rt60: float) -> None:
    with pytest.raises(ValueError, match="rt60"):
        room_impulse_response(rt60, generator())
