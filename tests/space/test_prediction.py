from __future__ import annotations

import numpy as np
import pytest
import torch

from shrinkml_env.compression import SVD, ActivationAwareSVD, compress, sampled_gradients
from shrinkml_env.evaluation.divergence import mean_divergence
from shrinkml_env.space.prediction import predict_damage
from tests.helpers.las import MODEL, noise
from tests.helpers.models import TinyCTC, tones

SPEECH = noise(9000, 14000, 11000)
NAME = "decoder.readout.weight"


def test_the_formula():
    """1 / units * the sum of half the squares of <G, W_r - W>, made non-increasing."""
    svd = SVD(MODEL)
    found = predict_damage(MODEL, svd, SPEECH).damage[NAME]
    samples = list(sampled_gradients(MODEL, SPEECH, MODEL.layers))
    full = svd.factors(NAME, 9).product
    expected = []
    for rank in range(10):
        change = full - svd.factors(NAME, rank).product if rank else full
        squares = [float((sample.matrices[NAME] * change).sum()) ** 2 / 2 for sample in samples]
        expected.append(sum(squares) / sum(sample.units for sample in samples))
    np.testing.assert_allclose(found, np.maximum.accumulate(expected[::-1])[::-1], rtol=1e-3, atol=1e-10)
    assert found[9] == 0
    assert (np.diff(found) <= 0).all()


def test_a_layer_is_the_sum_of_what_its_rank_factors():
    svd = SVD(MODEL)
    prediction = predict_damage(MODEL, svd, SPEECH)
    layer = next(layer for layer in svd.layers if layer.name == "encoder.0")
    rank = min(matrix.break_even for matrix in layer.matrices)
    assert prediction.of(layer, rank) == pytest.approx(sum(prediction.damage[m.name][rank] for m in layer.matrices))
    assert prediction.of(layer, layer.max_rank) == 0


@pytest.mark.slow
def test_small_damage_is_the_divergence():
    """The mean over many draws is the second-order expansion of what is measured."""
    factorisation = ActivationAwareSVD(MODEL, SPEECH, form="pivoting")
    rank = 7
    predicted = np.mean(
        [predict_damage(MODEL, factorisation, SPEECH, seed=seed).damage[NAME][rank] for seed in range(30)]
    )
    compressed = compress(MODEL, {NAME: rank}, factorisation)
    texts = MODEL.transcribe(SPEECH)

    def predictions(model):
        with torch.inference_mode():
            state = model.begin(SPEECH)
            for stage in range(len(model.stages)):
                state = model.advance(stage, state)
            return model.predict(SPEECH, state, texts)

    measured = mean_divergence(predictions(MODEL), predictions(compressed))
    assert 0.5 < measured / predicted < 2


def test_what_cannot_be_predicted():
    with pytest.raises(ValueError, match="a TinyCTC does not predict how probable a transcript is"):
        predict_damage(TinyCTC(), SVD(TinyCTC()), tones(2))
