from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from shrinkml_env.compression import SVD, compress, require_lossless, require_storable
from tests.helpers.models import TinyCTC, tones

WAVEFORMS = tones(3)


def test_a_model_that_calls_its_modules_passes_and_stays_as_it_is():
    model = TinyCTC()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    require_lossless(model, WAVEFORMS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(part._forward_pre_hooks for part in model.modules())


class ReadsWeights(TinyCTC):
    def logits(self, waveform: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = F.linear(torch.ones(self.units), self.hidden.weight, self.hidden.bias).sum()
        return super().logits(waveform) + 0 * hidden


class Isinstance(TinyCTC):
    """Loops over what is recurrent or linear, by type and by attributes."""

    def logits(self, waveform: Tensor) -> Tensor:
        self.gru.flatten_parameters()
        assert isinstance(self.gru, nn.GRU)
        assert (self.gru.mode, self.gru.num_layers, len(self.gru.all_weights[0])) == ("GRU", 1, 4)
        assert [m.out_channels for m in self.modules() if isinstance(m, nn.Conv1d)] == [32]
        assert len([m for m in self.modules() if isinstance(m, nn.Linear)]) == 3
        return super().logits(waveform)


@pytest.mark.parametrize("kind", [ReadsWeights, Isinstance])
def test_what_a_models_code_may_do(kind):
    require_lossless(kind(), WAVEFORMS)
    small = compress(kind(), {"front": 9, "gru": 5, "hidden": 4})
    assert small.transcribe(WAVEFORMS) == compress(TinyCTC(), {"front": 9, "gru": 5, "hidden": 4}).transcribe(WAVEFORMS)


class ExactType(TinyCTC):
    """Takes the output for something else if its type is not exactly that."""

    def logits(self, waveform: Tensor) -> Tensor:
        found = super().logits(waveform)
        return found if type(self.output) is nn.Linear else found.flip(1)


class OwnParameters(TinyCTC):
    def logits(self, waveform: Tensor) -> Tensor:
        return super().logits(waveform) + self.hidden._parameters["weight"].sum() * 0


class Closure(TinyCTC):
    def __init__(self, units: int = 24, seed: int = 0) -> None:
        super().__init__(units, seed)
        gru = self.gru
        self.run = lambda states: gru(states)

    def logits(self, waveform: Tensor) -> Tensor:
        self.run(torch.zeros(1, 2, 32))
        return super().logits(waveform)


class Together(TinyCTC):
    """It minds only if two modules change."""

    def logits(self, waveform: Tensor) -> Tensor:
        found = super().logits(waveform)
        return found.flip(1) if type(self.front) is not nn.Conv1d and type(self.gru) is not nn.GRU else found


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ExactType, r"module 'output': .* transcribes '.*' instead of '"),
        (OwnParameters, "module 'hidden': .* fails with KeyError: 'weight'"),
        (Closure, "module 'gru': .* goes on calling 'gru' of the original"),
        (Together, "no module alone, but all of them together: .* transcribes"),
    ],
)
def test_the_first_module_at_fault_is_named(kind, message):
    with pytest.raises(ValueError, match=message):
        require_lossless(kind(), WAVEFORMS)


def test_a_model_that_is_not_the_same_twice_is_told_apart():
    class Random(TinyCTC):
        def logits(self, waveform: Tensor) -> Tensor:
            return torch.rand_like(super().logits(waveform))

    with pytest.raises(ValueError, match="differently every time"):
        require_lossless(Random(), WAVEFORMS)


def test_compiled_models_are_refused():
    whole, part = torch.compile(TinyCTC(), backend="eager"), TinyCTC()
    part.hidden = torch.compile(part.hidden, backend="eager")
    for model, message in (whole, "the model is what torch.compile"), (part, "module 'hidden' is what torch.compile"):
        for use in (lambda model: SVD(model), lambda model: compress(model, {"gru": 2})):
            with pytest.raises(ValueError, match=message):
                use(model)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bias_that_is_no_number_is_named(value):
    model = TinyCTC()
    with torch.no_grad():
        model.hidden.bias[1] = value
    with pytest.raises(ValueError, match=r"'hidden.bias' holds NaN or infinity"):
        require_storable(model)
