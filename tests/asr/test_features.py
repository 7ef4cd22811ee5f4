import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkml_env.asr.features import LogMel, lengths_mask, num_frames

FEATURES = LogMel()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=4), st.integers(0, 9))
def test_batching_changes_nothing(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    waveforms = [torch.randn(size, generator=generator) for size in sizes]
    batch, lengths = FEATURES(waveforms)
    for row, length, waveform in zip(batch, lengths, waveforms, strict=True):
        assert torch.equal(row[:length], FEATURES.one(waveform))
        assert not row[length:].any()


@given(st.integers(400, 50_000))
def test_number_of_frames(size):
    assert num_frames(size) == 1 + size // 160


def test_frames_of_a_waveform():
    assert FEATURES.one(torch.randn(16_000)).shape == (num_frames(16_000), 80)


def test_normalised():
    features = FEATURES.one(torch.randn(32_000))
    assert features.mean(0).abs().max() < 1e-4
    assert (features.std(0) - 1).abs().max() < 0.01


def test_a_tone_lights_up_its_channel():
    # Slaney-free HTK mel scale: mel(f) = 2595 log10(1 + f / 700); 80 triangles between 20 Hz and 8 kHz.
    mel = lambda f: 2595 * torch.log10(torch.tensor(1 + f / 700))  # noqa: E731
    expected = 81 * (mel(1000.0) - mel(20.0)) / (mel(8000.0) - mel(20.0)) - 1
    tone = torch.sin(2 * torch.pi * 1000 / 16_000 * torch.arange(16_000))
    gap = torch.cat([tone, torch.zeros(16_000)])
    energies = FEATURES.one(gap)
    difference = energies[:90].mean(0) - energies[-90:].mean(0)
    assert difference[round(float(expected))] > 1.5


def test_mask():
    assert lengths_mask(torch.tensor([1, 3]), 3).tolist() == [[True, False, False], [True, True, True]]
