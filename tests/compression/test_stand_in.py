"""A low-rank module answers to all that the module answers to that it stands in for."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from shrinkml_env.compression import Factors, find_layers, second_moments
from shrinkml_env.compression.compress import replace_matrices
from shrinkml_env.compression.modules import LOW_RANK_MODULES, LowRank, module_matrices, why_dense
from tests.helpers.around import Around

X = torch.randn(7, 3, 6, generator=torch.Generator().manual_seed(0))
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "Linear": (lambda: nn.Linear(6, 8), (X,)),
    "Conv1d": (lambda: nn.Conv1d(6, 8, 3, stride=2, padding=1), (X.permute(1, 2, 0),)),
    "Embedding": (lambda: nn.Embedding(9, 6, padding_idx=2), (torch.arange(9).view(3, 3),)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(6, 2), (X, X, X)),
    "LSTM": (lambda: nn.LSTM(6, 5, num_layers=2, bidirectional=True), (X,)),
    "GRU": (lambda: nn.GRU(6, 5), (X,)),
    "LSTMCell": (lambda: nn.LSTMCell(6, 5), (X[0],)),
    "GRUCell": (lambda: nn.GRUCell(6, 5), (X[0],)),
}
kinds = pytest.mark.parametrize("kind", CASES)


def make(kind: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(1)
    create, inputs = CASES[kind]
    return create().eval(), inputs


def exact(module: nn.Module, path: str = "0") -> dict[str, Factors]:
    """Factors that lose nothing."""
    found = {}
    for matrix in module_matrices(module):
        dense = module.get_parameter(matrix.name).detach().flatten(1)
        found[f"{path}.{matrix.name}"] = Factors(dense, torch.eye(matrix.columns))
    return found


def stand_in(module: nn.Module) -> nn.Module:
    low_rank = replace_matrices(nn.ModuleList([module]), exact(module))[0]
    assert isinstance(low_rank, LowRank)
    return low_rank


def first(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else first(outputs[0])


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(first(actual), first(expected), rtol=1e-5, atol=1e-5, equal_nan=True)


def test_every_type_is_tried():
    assert {make(kind)[0].__class__ for kind in CASES} == {
        part for part in LOW_RANK_MODULES if part.__module__.startswith("torch.") and "Dynamically" not in part.__name__
    }


@kinds
def test_it_is_of_the_type_and_has_every_attribute(kind):
    module, inputs = make(kind)
    low_rank = stand_in(module)
    assert isinstance(low_rank, type(module))
    for name in dir(module):
        value, found = getattr(module, name), getattr(low_rank, name)
        if isinstance(value, Tensor):
            assert_same(found, value)
        elif isinstance(value, bool | int | float | str | tuple | None) and not name.startswith("_"):
            assert found == value
    assert_same(low_rank(*inputs), module(*inputs))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_lists_of_weights_of_recurrent_modules(kind):
    module, inputs = make(kind)
    low_rank = stand_in(module)
    low_rank.flatten_parameters()
    torch.testing.assert_close(low_rank.all_weights, module.all_weights)
    assert_same(low_rank(*inputs), module(*inputs))


@kinds
def test_copies_pickles_and_other_number_formats(kind):
    module, inputs = make(kind)
    low_rank = stand_in(module)
    for again in copy.deepcopy(low_rank), pickle.loads(pickle.dumps(low_rank)), low_rank.double().float():
        assert set(again.state_dict()) == set(low_rank.state_dict())
        assert_same(again(*inputs), module(*inputs))


@kinds
def test_hooks_buffers_and_attributes_stay(kind):
    module, inputs = make(kind)
    calls = []

    def before(part: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        calls.append(type(part).__name__)
        return (args[0].flip(0), *args[1:])

    def after(part: Any, args: Any, kwargs: Any, output: Any) -> Tensor:
        return first(output) * part.gain + part.offset + part.scale

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after, with_kwargs=True)
    module.register_buffer("gain", torch.tensor(3.0))
    module.register_buffer("offset", torch.tensor(2.0), persistent=False)
    module.scale, module.note = 0.5, {"read by": "its user"}
    low_rank = stand_in(module)
    assert_same(low_rank(*inputs), module(*inputs))
    assert calls == [f"LowRank{kind}", kind]
    assert low_rank.note == {"read by": "its user"}
    assert "gain" in low_rank.state_dict()
    assert "offset" not in low_rank.state_dict()
    # Its own from now on.
    low_rank.gain.zero_()
    low_rank.register_forward_hook(lambda *_: calls.append("new"))
    assert module.gain == 3
    module(*inputs)
    assert "new" not in calls


def masked(module: nn.Module, name: str) -> nn.Module:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    parametrize.register_parametrization(module, name, Doubled())
    return module


COMPUTED = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "prune": lambda module, name: prune.l1_unstructured(module, name, 0.5),
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "parametrizations.spectral_norm": parametrizations.spectral_norm,
    "parametrization": masked,
}
WEIGHTS = {
    "LSTM": "weight_hh_l1_reverse",
    "GRU": "weight_hh_l0",
    "LSTMCell": "weight_hh",
    "GRUCell": "weight_ih",
    "MultiheadAttention": "in_proj_weight",
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("how", COMPUTED)
@kinds
def test_a_module_with_a_computed_weight_stays_dense_and_is_named(kind, how):
    module, inputs = make(kind)
    name = WEIGHTS.get(kind, "weight")
    COMPUTED[how](module, name)
    module.eval()
    other = nn.Linear(6, 8)
    model = nn.ModuleDict({"computed": module, "other": other})
    assert module_matrices(module) == ()
    with pytest.warns(UserWarning, match=f"module 'computed' .* stays dense: its {name} is computed"):
        layers = find_layers(model)
    # An attention module's output projection is a module of its own.
    assert [layer.name for layer in layers] == [*["computed"] * (kind == "MultiheadAttention"), "other"]
    copied = replace_matrices(model, exact(other, "other"))
    assert_same(copied["computed"](*inputs), module(*inputs))
    assert_same(copied["other"](X), other(X))


@pytest.mark.parametrize("name", ["bias_hh_l0", "bias"])
def test_a_computed_bias_counts_too(name):
    module = nn.LSTM(6, 5) if "hh" in name else nn.Linear(6, 5)
    prune.l1_unstructured(module, name, 0.5)
    assert "is computed" in str(why_dense(module))


def test_methods_and_names_of_its_own():
    module = nn.Linear(6, 8)
    module.forward = MethodType(lambda self, x: torch.zeros(8), module)
    with pytest.warns(UserWarning, match="'0' .* has a method 'forward' of its own"):
        assert find_layers(nn.ModuleList([module])) == ()
    module = nn.Linear(6, 8)
    module.register_buffer("weight_u", torch.ones(8))
    assert "'weight_u'" in str(why_dense(module))
    module = nn.GRU(6, 8)
    module.ranks = [1, 2]
    assert "'ranks'" in str(why_dense(module))
    # What could not be factored anyway needs no warning.
    module = nn.Conv1d(6, 8, 3, groups=2)
    module.ranks = [1, 2]
    assert why_dense(module) is None


class Indirect(nn.Module):
    """It reaches its layers through whatever holds a reference."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three, self.four = (nn.Linear(6, 6) for _ in range(4))
        self.chain = [("name", self.one), torch.tanh]
        self.by_name = {"two": self.two}
        self.third = self.three.forward
        self.fourth = partial(self.apply_fourth, scale=2.0)
        self.one.register_forward_hook(self.count)
        self.calls = 0

    def apply_fourth(self, x: Tensor, scale: float) -> Tensor:
        return scale * self.four(x)

    def count(self, *_: Any) -> None:
        self.calls += 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.chain[1](self.chain[0][1](x))
        return self.fourth(self.third(self.by_name["two"](x)))


def test_references_to_a_module_lead_to_its_stand_in():
    model = Indirect()
    names = "one", "two", "three", "four"
    factors = {f"{name}.weight": Factors(torch.randn(6, 2), torch.randn(2, 6)) for name in names}
    twin = copy.deepcopy(model)
    for name in names:
        getattr(twin, name).weight.data = factors[f"{name}.weight"].u @ factors[f"{name}.weight"].v
    before = model(X)
    low_rank = replace_matrices(model, factors)
    expected = twin.apply_fourth(twin.three(twin.two(torch.tanh(twin.one(X)))), 2.0)
    assert_same(low_rank(X), expected)
    assert low_rank.chain[0][1] is low_rank.one
    assert (model.calls, low_rank.calls) == (1, 2)  # It began with the original's.
    assert_same(model(X), before)


def test_what_compile_made_of_the_original_is_not_the_copys():
    module = nn.Linear(6, 8)
    module.compile(backend="eager")
    low_rank = replace_matrices(nn.ModuleList([module]), {"0.weight": Factors(torch.zeros(8, 2), torch.zeros(2, 6))})
    torch.testing.assert_close(low_rank[0](X), module.bias.expand(7, 3, 8))


def test_calibration_sees_what_the_module_computed_not_what_hooks_made_of_it():
    module, _ = make("GRU")
    states = module(X)[0].detach()
    module.register_forward_hook(lambda part, args, output: (torch.zeros_like(output[0]), output[1]))
    found = second_moments(Around(module), [X])["module.weight_hh_l0"]
    seen = torch.cat([torch.zeros_like(states[:1]), states[:-1]]).flatten(0, 1).double()
    torch.testing.assert_close(found, seen.T @ seen / len(seen), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")  # They are left out, which is told.
def test_calibration_passes_computed_weights_by():
    module, _ = make("MultiheadAttention")
    parametrizations.weight_norm(module.out_proj, "weight")
    assert list(second_moments(Around(module), [(X, X, X)])) == ["module.in_proj_weight"]
    assert second_moments(Around(prune.l1_unstructured(nn.LSTM(6, 5), "weight_hh_l0", 0.5)), [X]) == {}
