"""Compression to a size in one call."""

import re
from dataclasses import replace

import pytest
import torch

from agents import ClosedForm
from shrinkml_env import (
    EvaluationCache,
    Evaluator,
    SearchProblem,
    Utterance,
    compress,
    count_parameters,
    load_compressed,
    load_model,
    save_compressed,
    shrink,
)
from shrinkml_env.compression import ActivationAwareSVD, parameters_at, ranks_by_matrix, ranks_of, split_layers
from shrinkml_env.compression.factorisations import BEST, ActivationAware, make_factorisation
from shrinkml_env.mdp.rewards import Linear
from shrinkml_env.space import Prediction, allocate, choices_of, largest_within
from shrinkml_env.space.formation import Full
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


def test_ranks_are_those_of_the_least_mean_damage_of_two_rounds():
    waveforms = [utterance.waveform for utterance in SPEECH]
    factors = ActivationAwareSVD(MODEL, waveforms, form="pivoting", share_inputs=True, weigh_rows=True)
    layers, total = split_layers(factors.layers), count_parameters(MODEL)
    space = Full(max(layer.break_even for layer in layers))(layers)
    left = largest_within(0.6, total) - (total - sum(layer.parameters(layer.max_rank) for layer in space.layers))
    plain = predict_damage(MODEL, factors, waveforms)
    first = space.ranks(allocate(choices_of(space, plain), left))
    mean = Prediction.mean([plain, predict_damage(MODEL, factors, waveforms, at=ranks_by_matrix(layers, first))])
    expected = space.ranks(allocate(choices_of(space, mean), left))
    assert expected != first
    found = ranks_of(shrink(MODEL, 0.6, SPEECH))
    assert {layer.name: found.get(layer.name, layer.max_rank) for layer in layers} == expected
    assert parameters_at(total, layers, expected) <= 0.6 * total


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


def test_ranks_are_those_of_the_closed_form():
    cache = EvaluationCache()
    factors = make_factorisation(MODEL, BEST | {"calibration": SPEECH}, cache)
    named = [replace(utterance, text="call martin") for utterance in SPEECH]
    evaluator = Evaluator(MODEL, named, "matrix", cache, factors)
    problem = SearchProblem(evaluator, Full(1000)(evaluator.layers), Linear())
    expected = ClosedForm(calibration=SPEECH, draws=1, rounds=2).ranks_of_size(problem, 0.5)
    assert ranks_of(shrink(MODEL, 0.5, SPEECH)) == ranks_of(compress(MODEL, evaluator.matrix_ranks(expected), factors))


def test_factors_given_as_an_object_are_kept_as_well(monkeypatch):
    cache = EvaluationCache()
    options = {key: value for key, value in BEST.items() if key != "name"}
    first = make_factorisation(MODEL, ActivationAware(calibration=SPEECH, **options), cache)
    monkeypatch.setattr(
        "shrinkml_env.compression.activation_aware.second_moments", lambda *_: pytest.fail("computed again")
    )
    assert make_factorisation(MODEL, ActivationAware(calibration=SPEECH, **options), cache).key == first.key
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        make_factorisation(MODEL, ActivationAware(calibration=SPEECH[:2], **options), cache)


def test_a_second_call_predicts_nothing(monkeypatch):
    first = ranks_of(shrink(MODEL, 0.5, SPEECH))
    monkeypatch.setattr("shrinkml_env.space.prediction._predict", lambda *_: pytest.fail("predicted again"))
    assert ranks_of(shrink(MODEL, 0.5, SPEECH)) == first
    with pytest.raises(pytest.fail.Exception, match="predicted again"):
        shrink(MODEL, 0.5, SPEECH[:2])


@pytest.mark.parametrize("dense", [(), ("decoder.*",)])
def test_whisper(tmp_path, dense):
    pytest.importorskip("transformers")
    from tests.helpers.huggingface_models import make_whisper

    model = load_model(f"hf:{make_whisper(tmp_path)}")
    small = shrink(model, 0.95, SPEECH, dense)
    assert 0.93 < count_parameters(small) / count_parameters(model) <= 0.95
    long = Utterance("long", "", noise(31 * 16_000)[0], "")
    with pytest.raises(ValueError, match=r"speech: utterance 'long': an utterance of 31\.0 s is recognised in parts"):
        shrink(model, 0.95, [*SPEECH, long], dense)


@pytest.mark.parametrize("size", [0, 1.2, -0.1, float("nan"), "0.5", True, None])
def test_sizes_out_of_range(size):
    with pytest.raises(ValueError, match=r"size must be a share of the model's parameters in \(0, 1\], got"):
        shrink(MODEL, size, SPEECH)


def test_the_smallest_size_is_within_reach():
    with pytest.raises(ValueError, match=r"[\d,]+ of 12,219 are left") as error:
        shrink(MODEL, 0.1, SPEECH)
    smallest = int(re.search(r"([\d,]+) of", str(error.value)).group(1).replace(",", ""))
    assert count_parameters(shrink(MODEL, smallest / 12_219, SPEECH)) == smallest
    with pytest.raises(ValueError, match="are left"):
        shrink(MODEL, (smallest - 1) / 12_219, SPEECH)


def test_models_that_cannot_be_compressed():
    """Known or not from the cache."""
    small = shrink(MODEL, 0.5, SPEECH)
    with pytest.raises(ValueError, match="this model is compressed already"):
        shrink(small, 0.3, SPEECH)
    partly = make_model()
    partly.decoder.train()
    with pytest.raises(ValueError, match="training mode"):
        shrink(partly, 0.5, SPEECH)
    with pytest.raises(ValueError, match="model must be a CompressibleModel"):
        shrink(torch.nn.Linear(2, 2), 0.5, SPEECH)


def test_patterns_may_come_from_an_iterator():
    found = ranks_of(shrink(MODEL, 0.8, SPEECH, dense=iter(["decoder.*"])))
    assert found == ranks_of(shrink(MODEL, 0.8, SPEECH, dense=["decoder.*"]))


def test_what_cannot_be_had():
    picky = make_model()
    picky.shortest = 400
    with pytest.raises(ValueError, match=r"size=0.01 allows 122 parameters, and with rank 1 wherever"):
        shrink(MODEL, 0.01, SPEECH)
    with pytest.raises(ValueError, match=r"dense: no layer matches 'encoder_\*'"):
        shrink(MODEL, 0.5, SPEECH, dense=["encoder_*"])
    with pytest.raises(ValueError, match=r"dense must be a list of patterns: \['decoder\.\*'\]"):
        shrink(MODEL, 0.5, SPEECH, dense="decoder.*")
    with pytest.raises(ValueError, match=r"shrink takes a model, not its name: shrink\(load_model\('las_small'\)"):
        shrink("las_small", 0.5, SPEECH)
    with pytest.raises(ValueError, match="utterance 'short': 10 samples are too few"):
        shrink(picky, 0.5, [Utterance("short", "", torch.zeros(10), "")])
    with pytest.raises(ValueError, match="does not predict"):
        shrink(TinyCTC(), 0.5, SPEECH)
    with pytest.raises(FileNotFoundError, match="speech: "):
        shrink(MODEL, 0.5, {"root": "/nowhere", "subset": "train"})
