"""Compression to a size in one call."""

import pytest
import torch

from shrinkml_env import Utterance, count_parameters, load_compressed, save_compressed, shrink
from shrinkml_env.compression import ActivationAwareSVD, parameters_at, ranks_of, split_layers
from shrinkml_env.space.prediction import predict_damage
from tests.helpers.las import MODEL, make_model, noise
from tests.helpers.models import TinyCTC

SPEECH = [Utterance(str(index), "", waveform, "") for index, waveform in enumerate(noise(9000, 14000, 11000))]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "cache.sqlite"))


@pytest.mark.parametrize("size", [0.9, 0.6, 0.4])
def test_the_size_is_kept_and_nearly_reached(size):
    small = shrink(MODEL, size, SPEECH)
    assert 0.97 * size < count_parameters(small) / count_parameters(MODEL) <= size


def test_no_other_rank_of_a_single_matrix_does_less_damage():
    waveforms = [utterance.waveform for utterance in SPEECH]
    factors = ActivationAwareSVD(MODEL, waveforms, form="pivoting", share_inputs=True, weigh_rows=True)
    prediction, layers = predict_damage(MODEL, factors, waveforms), split_layers(factors.layers)
    total = count_parameters(MODEL)
    found = ranks_of(shrink(MODEL, 0.6, SPEECH))
    ranks = {layer.name: found.get(layer.name, layer.max_rank) for layer in layers}

    def damage(ranks):
        return sum(prediction.of(layer, ranks[layer.name]) for layer in layers)

    assert parameters_at(total, layers, ranks) <= 0.6 * total
    least = damage(ranks)
    assert least > 0
    others = [{**ranks, layer.name: rank} for layer in layers for rank in range(1, layer.max_rank + 1)]
    allowed = [other for other in others if parameters_at(total, layers, other) <= 0.6 * total]
    assert len(allowed) > 50
    assert all(damage(other) >= least for other in allowed)


def test_dense_layers_stay_as_they_are_and_count():
    small = shrink(MODEL, 0.8, SPEECH, dense=["decoder.*"])
    assert count_parameters(small) <= 0.8 * count_parameters(MODEL)
    assert ranks_of(small)
    assert all(name.startswith("encoder.") for name in ranks_of(small))


def test_it_is_saved_and_loaded_like_any_other(tmp_path):
    small = shrink(MODEL, 0.5, SPEECH)
    save_compressed(small, tmp_path / "small")
    loaded = load_compressed(tmp_path / "small")
    waveforms = noise(16_000, 12_000)
    with torch.inference_mode():
        assert loaded.transcribe(waveforms) == small.transcribe(waveforms)


@pytest.mark.parametrize("size", [0, 1.2, -0.1, float("nan")])
def test_sizes_out_of_range(size):
    with pytest.raises(ValueError, match=r"size must be above 0 and at most 1, a share of the parameters, got"):
        shrink(MODEL, size, SPEECH)


def test_what_cannot_be_had():
    picky = make_model()
    picky.shortest = 400
    with pytest.raises(ValueError, match=r"size=0.01 is out of reach: with rank 1 everywhere 0\.\d+ is left"):
        shrink(MODEL, 0.01, SPEECH)
    with pytest.raises(ValueError, match=r"dense: no layer matches 'encoder_\*'"):
        shrink(MODEL, 0.5, SPEECH, dense=["encoder_*"])
    with pytest.raises(ValueError, match="utterance 'short': 10 samples are too few"):
        shrink(picky, 0.5, [Utterance("short", "", torch.zeros(10), "")])
    with pytest.raises(ValueError, match="does not predict"):
        shrink(TinyCTC(), 0.5, SPEECH)
    with pytest.raises(FileNotFoundError, match="speech: "):
        shrink(MODEL, 0.5, {"root": "/nowhere", "subset": "train"})
