import torch

from shrinkml_env.asr.augment import spec_augment
from shrinkml_env.data.augment import Augmentation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_same_generator_gives_the_same_waveform():
    waveform = torch.randn(8000, generator=generator(9))
    augmentation = Augmentation()
    for seed in range(8):
        assert torch.equal(augmentation(waveform, generator(seed)), augmentation(waveform, generator(seed)))


def test_nothing_asked_for_changes_nothing():
    waveform = torch.randn(8000)
    assert torch.equal(Augmentation(speeds=(1.0,), reverberation=0.0, noise=0.0)(waveform, generator()), waveform)


def test_speed_changes_length_and_pitch():
    tone = torch.sin(2 * torch.pi * 500 / 16_000 * torch.arange(16_000))
    faster = Augmentation(speeds=(1.1,), reverberation=0.0, noise=0.0)(tone, generator())
    assert abs(len(faster) - 16_000 / 1.1) <= 1
    spectrum = torch.fft.rfft(faster).abs()
    assert abs(float(spectrum.argmax()) * 16_000 / len(faster) - 550) < 2


def test_noise_has_the_asked_ratio():
    waveform = torch.sin(0.05 * torch.arange(16_000))
    noisy = Augmentation(speeds=(1.0,), reverberation=0.0, noise=1.0, snr_db=(10.0, 10.0))(waveform, generator(4))
    ratio = 10 * torch.log10(waveform.square().mean() / (noisy - waveform).square().mean())
    assert abs(float(ratio) - 10) < 0.1


def test_spec_augment_zeroes_bands_and_stretches_and_nothing_else():
    torch.manual_seed(1)
    features = torch.ones(4, 50, 80)
    lengths = torch.tensor([50, 50, 30, 20])
    masked = spec_augment(features, lengths, masks=2, widest_band=20, longest_share=0.2)
    assert set(masked.unique().tolist()) == {0.0, 1.0}
    for row, length in zip(masked, lengths, strict=True):
        hidden = row[:length] == 0
        # What is hidden is a union of whole channels and whole frames.
        channels, frames = hidden.all(0), hidden.all(1)
        assert torch.equal(hidden, channels[None] | frames[:, None])
        assert channels.sum() <= 40
        assert frames.sum() <= 2 * 0.2 * length
        assert row[length:].all()
