from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shrinkml_env import EvaluationCache
from shrinkml_env.compression import SVD, ActivationAwareSVD, compress, sampled_gradients
from shrinkml_env.evaluation.divergence import mean_divergence
from shrinkml_env.space.prediction import Prediction, predict_damage
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


def test_gradients_of_a_compressed_model():
    """The formula with the gradients of a model whose weights are the products; the changes are the original's."""
    svd = SVD(MODEL)
    ranks = {"decoder.lstm.weight_ih": 3, NAME: 5}
    small = copy.deepcopy(MODEL)
    for name, rank in ranks.items():
        small.get_parameter(name).data.copy_(svd.factors(name, rank).product)
    found = predict_damage(MODEL, svd, SPEECH, at=ranks).damage[NAME][6]
    change = svd.factors(NAME, 9).product - svd.factors(NAME, 6).product
    samples = list(sampled_gradients(small, SPEECH, MODEL.layers))
    squares = sum(float((sample.matrices[NAME] * change).sum()) ** 2 / 2 for sample in samples)
    assert found == pytest.approx(squares / sum(sample.units for sample in samples), rel=1e-3)
    assert found != pytest.approx(predict_damage(MODEL, svd, SPEECH).damage[NAME][6], rel=1e-2)


def test_a_prediction_is_kept_for_each_model_of_the_gradients(tmp_path, monkeypatch):
    cache, svd = EvaluationCache(tmp_path / "cache.sqlite"), SVD(MODEL)

    def predicted(at):
        return tuple(predict_damage(MODEL, svd, SPEECH, store=cache, at=at).damage[NAME])

    found = [predicted(at) for at in (None, {NAME: 5}, {NAME: 6})]
    assert len(set(found)) == 3
    monkeypatch.setattr("shrinkml_env.space.prediction._predict", lambda *_: pytest.fail("predicted again"))
    assert [predicted(at) for at in (None, {NAME: 5}, {NAME: np.int64(6)})] == found
    # The original, in other words.
    assert predicted({}) == predicted({NAME: 9}) == found[0]


def test_gradients_of_a_compressed_model_in_inference_mode():
    with torch.inference_mode():
        found = predict_damage(MODEL, SVD(MODEL), SPEECH, at={NAME: 5})
    assert found.damage[NAME].tolist() == predict_damage(MODEL, SVD(MODEL), SPEECH, at={NAME: 5}).damage[NAME].tolist()


@pytest.mark.parametrize("ranks", [{NAME: 0}, {"decoder.none": 3}, [5]])
def test_a_wrong_model_of_the_gradients(ranks, tmp_path):
    for store in (None, EvaluationCache(tmp_path / "cache.sqlite")):
        with pytest.raises(ValueError, match=r"rank.* (of|must)|no layer is named 'decoder.none'"):
            predict_damage(MODEL, SVD(MODEL), SPEECH, store=store, at=ranks)


@given(arrays(np.float64, (2, 4), elements=st.floats(0, 100)), st.floats(0.01, 100))
def test_the_mean_does_not_depend_on_the_scale_of_one(damage, scale):
    one, other = ({"a": row} for row in damage)
    mean = Prediction.mean([Prediction(one), Prediction(other)]).damage["a"]
    np.testing.assert_allclose(mean, np.sqrt(damage[0] * damage[1]))
    scaled = Prediction.mean([Prediction(one), Prediction({"a": scale * damage[1]})]).damage["a"]
    np.testing.assert_allclose(scaled, np.sqrt(scale) * mean, rtol=1e-9, atol=1e-12)


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
