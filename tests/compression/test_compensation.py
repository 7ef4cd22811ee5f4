import math
from types import SimpleNamespace

import pytest
import torch

from shrinkml_env import Evaluator, Utterance, load_model
from shrinkml_env.asr.joint import JointLAS
from shrinkml_env.compression import SVD, ActivationAwareSVD, CompensatedSVD, matrix_ranks
from shrinkml_env.compression.compensation import DAMPINGS, METRIC, Moments, best_damping
from tests.helpers.huggingface_models import make_whisper, waveforms
from tests.helpers.las import MODEL, make_model, noise
from tests.helpers.models import TinyCTC

SPEECH = noise(9000, 14000, 11000, 16000)
OPTIONS = [{}, {"form": "pivoting", "share_inputs": True, "weigh_rows": True}]
RANKS = {layer.name: max(1, layer.break_even // 2) for layer in MODEL.layers}


def factorisation(**options):
    return ActivationAwareSVD(MODEL, SPEECH, METRIC, **options)


def product(factors, name, rank):
    return factors.factors(name, rank).product


@pytest.mark.parametrize("options", OPTIONS)
def test_the_first_matrix_has_nothing_to_make_up_for(options):
    """Its inputs are unchanged, so that W~ = W whatever the damping, and the truncation is the activation-aware one."""
    plain = factorisation(**options)
    first = plain.layers[0].matrices[0]
    found = CompensatedSVD(MODEL, SPEECH, {plain.layers[0].name: 3}, plain)
    torch.testing.assert_close(product(found, first.name, 3), product(plain, first.name, 3), atol=2e-3, rtol=2e-3)


def moments_of(before, after):
    return Moments(after.T @ after, before.T @ after)


@pytest.mark.parametrize("damping", DAMPINGS)
def test_the_regression_is_a_ridge_regression(damping):
    """The sum of ||W x - W~ x'||^2 + d m ||W - W~||^2 is that of a longer system of equations."""
    torch.manual_seed(0)
    weight, before = torch.randn(5, 4).double(), torch.randn(50, 4).double()
    after = before + 0.3 * torch.randn(50, 4).double()
    found = moments_of(before, after).regressed(weight, damping)
    if damping == math.inf:
        assert torch.equal(found, weight)
        return
    share = math.sqrt(damping * 50 * after.square().mean())
    system = torch.cat([after, share * torch.eye(4)])
    wanted = torch.cat([before @ weight.T, share * weight.T])
    torch.testing.assert_close(found, torch.linalg.lstsq(system, wanted).solution.T)


def test_the_error_is_that_of_the_outputs():
    torch.manual_seed(0)
    weight, fitted = torch.randn(2, 5, 4).double()
    before, after = torch.randn(2, 50, 4).double()
    rows = torch.rand(5).double()
    halves = [moments_of(before[part], after[part]) for part in (slice(0, 20), slice(20, 50))]
    for weights in (None, rows):
        scale = torch.ones(5).double() if weights is None else rows
        expected = ((before @ weight.T - after @ fitted.T) * scale).square().sum()
        common = ((before @ weight.T) * scale).square().sum()
        found = (halves[0] + halves[1]).error(weight, fitted, weights)
        assert found == pytest.approx(float(expected - common))


def test_the_damping_is_chosen_on_held_out_speech():
    """A distortion that is the same everywhere is undone; one that is drawn anew for each vector cannot be."""
    torch.manual_seed(0)
    weight, before = torch.randn(6, 4).double(), torch.randn(400, 4).double()
    distorted = before @ torch.randn(4, 4).double()
    halves = (slice(0, 200), slice(200, 400))
    consistent = tuple(moments_of(before[part], distorted[part]) for part in halves)
    assert best_damping(weight, consistent, None, 3) == min(DAMPINGS)
    few = tuple(
        moments_of(before[part], before[part] + 0.02 * torch.randn(4, 4).double())
        for part in (slice(0, 4), slice(4, 8))
    )
    assert best_damping(weight, few, torch.rand(6).double(), 3) > min(DAMPINGS)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_outputs_are_nearer_to_the_originals(options):
    plain = factorisation(**options)
    utterances = [Utterance(str(index), "s", waveform, "set an alarm") for index, waveform in enumerate(SPEECH)]
    found = CompensatedSVD(MODEL, SPEECH, RANKS, plain)
    before, after = (
        Evaluator(MODEL, utterances, factorisation=factors, divergence=True).evaluate(RANKS).divergence
        for factors in (plain, found)
    )
    assert after < before
    assert set(found.dampings) == set(matrix_ranks(plain.layers, RANKS))
    assert found.key.startswith(plain.key)
    assert found.key != plain.key


def test_nothing_else_changes():
    plain = factorisation(form="pivoting", share_inputs=True)
    weights = {name: weight.clone() for name, weight in MODEL.state_dict().items()}
    first = plain.layers[0].matrices[0]
    before = product(plain, first.name, 3)
    found = CompensatedSVD(MODEL, SPEECH, RANKS, plain)
    assert all(torch.equal(weights[name], weight) for name, weight in MODEL.state_dict().items())
    assert torch.equal(product(plain, first.name, 3), before)
    assert not any(module._forward_hooks for module in MODEL.modules())
    # What is not factored has no rank that it was fitted for.
    rank = matrix_ranks(plain.layers, RANKS)[first.name]
    with pytest.raises(ValueError, match=rf"was fitted for rank {rank}, not {rank - 1}"):
        found.factors(first.name, rank - 1)


def test_a_jointly_factored_model():
    """Its stacks are multiplied with two kinds of vectors."""
    joint = JointLAS.from_las(MODEL)
    ranks = {layer.name: max(1, layer.break_even // 2) for layer in joint.layers}
    plain = ActivationAwareSVD(joint, SPEECH)
    utterances = [Utterance(str(index), "s", waveform, "set an alarm") for index, waveform in enumerate(SPEECH)]
    before, after = (
        Evaluator(joint, utterances, factorisation=factors, divergence=True).evaluate(ranks).divergence
        for factors in (plain, CompensatedSVD(joint, SPEECH, ranks, plain))
    )
    assert after < before


def test_what_it_cannot_work_with():
    ctc = TinyCTC()
    with pytest.raises(ValueError, match="a TinyCTC does not predict how probable a transcript is"):
        CompensatedSVD(ctc, SPEECH, {}, SVD(ctc))
    with pytest.raises(ValueError, match="begins with an SVD, plain or activation-aware, not 'other'"):
        CompensatedSVD(MODEL, SPEECH, {}, SimpleNamespace(name="other"))
    with pytest.raises(ValueError, match="no layer is named 'nothing'"):
        CompensatedSVD(MODEL, SPEECH, {"nothing": 3}, SVD(MODEL))
    training = make_model().train()
    with pytest.raises(ValueError, match="in training mode"):
        CompensatedSVD(training, SPEECH, {"encoder.0": 3}, SVD(training))


def test_too_little_speech():
    with pytest.raises(ValueError, match="needs calibration speech: 1 utterances are too few"):
        CompensatedSVD(MODEL, SPEECH[:1], RANKS, factorisation())


@pytest.mark.slow
def test_whisper_keeps_its_tied_embedding(tmp_path):
    pytest.importorskip("transformers")
    model = load_model(f"hf:{make_whisper(tmp_path)}")
    speech = waveforms()
    plain = ActivationAwareSVD(model, speech, form="pivoting", share_inputs=True)
    ranks = {matrix.name: max(1, matrix.break_even // 2) for layer in plain.layers for matrix in layer.matrices}
    found = CompensatedSVD(model, speech, ranks, plain)
    (left,) = set(matrix_ranks(plain.layers, ranks)) - set(found.dampings)
    assert "embed_tokens" in left


def test_a_matrix_whose_inputs_are_always_zero_keeps_its_factors():
    """The readout gives zeros, and the output layer behind it is multiplied with nothing else."""
    model = make_model()
    with torch.no_grad():
        for parameter in model.decoder.readout.parameters():
            parameter.zero_()
    plain = ActivationAwareSVD(model, SPEECH, METRIC)
    found = CompensatedSVD(model, SPEECH, RANKS, plain)
    name, rank = "decoder.output.weight", RANKS["decoder.output"]
    assert torch.equal(product(found, name, rank), product(plain, name, rank))
    assert name not in found.dampings
    assert "decoder.lstm.weight_ih" in found.dampings


def test_speech_that_is_not_finite_is_refused():
    bad = [*SPEECH, torch.full((9000,), torch.nan)]
    with pytest.raises(ValueError, match="holds samples that are NaN or infinite"):
        CompensatedSVD(MODEL, bad, RANKS, SVD(MODEL))
