from __future__ import annotations

import pytest
import torch

from shrinkml_env.compression import ActivationAwareSVD, sampled_gradients
from shrinkml_env.compression.gradients import SampledGradients, row_weights
from shrinkml_env.compression.layers import arrange_layers
from tests.helpers.las import MODEL, make_model, noise
from tests.helpers.models import TinyCTC, tones

SPEECH = noise(9000, 14000)
OUTPUT = "decoder.output.weight"


def test_gradients_are_of_units_drawn_from_the_models_own_predictions():
    """The output layer's gradient is known: (one-hot - p) x^T, summed over the units."""
    (found,) = sampled_gradients(MODEL, SPEECH[:1], MODEL.layers)
    (text,) = MODEL.transcribe(SPEECH[:1])
    seen = []
    handle = MODEL.decoder.output.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    state = MODEL.begin(SPEECH[:1])
    for stage in range(len(MODEL.stages)):
        state = MODEL.advance(stage, state)
    (log_probabilities,) = MODEL.predict(SPEECH[:1], state, [text])
    handle.remove()
    assert found.units == len(log_probabilities) == len(MODEL.tokenizer.encode(text)) + 1
    inputs = torch.cat(seen)
    drawn = torch.multinomial(log_probabilities.exp().detach(), 1, generator=torch.Generator().manual_seed(0))
    chosen = torch.zeros_like(log_probabilities).scatter(1, drawn, 1.0)
    expected = (chosen - log_probabilities.exp()).T @ inputs
    torch.testing.assert_close(found.matrices[OUTPUT], expected, rtol=1e-4, atol=1e-5)


def test_the_same_seed_draws_the_same_and_the_model_stays_as_it_was():
    model = make_model().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, again, other = (
        next(iter(sampled_gradients(model, SPEECH, model.layers, seed=seed))).matrices[OUTPUT] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_stack_has_the_rows_of_its_parts():
    names = [f"encoder.layers.0.lstm.{way}_lstm.weight_ih_l0" for way in ("forward", "backward")]
    layers = arrange_layers(MODEL.layers, shared=[names])
    apart = next(iter(sampled_gradients(MODEL, SPEECH, MODEL.layers))).matrices
    together = next(iter(sampled_gradients(MODEL, SPEECH, layers))).matrices
    stack = layers[0].matrices[0].name
    assert torch.equal(together[stack], torch.cat([apart[name] for name in names]))


def test_weights_of_rows():
    weights = row_weights(MODEL, SPEECH, MODEL.layers, {})
    samples = [sample.matrices[OUTPUT].double() for sample in sampled_gradients(MODEL, SPEECH, MODEL.layers)]
    expected = sum(sample.square().sum(1) for sample in samples).sqrt()
    expected /= expected.mean()
    torch.testing.assert_close(weights[OUTPUT], expected.clamp(min=0.05))
    # With a moment 4 I all weights are the same: only rows are compared with each other.
    root = 2.0 * torch.eye(9, dtype=torch.float64)
    torch.testing.assert_close(row_weights(MODEL, SPEECH, MODEL.layers, {OUTPUT: root})[OUTPUT], weights[OUTPUT])


def test_at_one_position_a_weight_is_the_gradient_by_its_output(monkeypatch):
    by_output, inputs = torch.tensor([3.0, -1.0, 2.0, 0.0]), torch.tensor([0.5, -2.0])
    sample = SampledGradients({"matrix": torch.outer(by_output, inputs)}, 1)
    monkeypatch.setattr("shrinkml_env.compression.gradients.sampled_gradients", lambda *_: iter([sample]))
    root = torch.tensor([[2.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    for roots in ({}, {"matrix": root}):
        # |d| over its mean, 1.5; the smallest weight is 0.05.
        assert row_weights(MODEL, [], [], roots)["matrix"].tolist() == pytest.approx([2.0, 2 / 3, 4 / 3, 0.05])


def test_a_model_that_tells_no_probabilities_is_refused():
    with pytest.raises(ValueError, match=r"a TinyCTC does not predict how probable .* lacks .* `predict`"):
        ActivationAwareSVD(TinyCTC(), tones(2), weigh_rows=True)


def test_rows_that_matter_more_are_kept_better():
    plain = ActivationAwareSVD(MODEL, SPEECH)
    weighed = ActivationAwareSVD(MODEL, SPEECH, weigh_rows=True)
    assert weighed.key == f"{plain.key}-rows"
    name = "decoder.lstm.weight_ih"
    weights = row_weights(MODEL, SPEECH, MODEL.layers, {})[name]
    weight = MODEL.get_parameter(name).detach().double()

    def error(factorisation: ActivationAwareSVD) -> float:
        return float((weights[:, None] * (weight - factorisation.factors(name, 3).product.double())).norm())

    assert error(weighed) < error(plain)
