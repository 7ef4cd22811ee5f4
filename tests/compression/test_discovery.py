from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from shrinkml_env.compression import compress, find_layers, ranks_of
from tests.helpers.models import Everything, TinyCTC


def test_layers_of_the_recogniser():
    layers = TinyCTC().layers
    assert [(layer.name, layer.kind, layer.shapes) for layer in layers] == [
        ("front", "conv", ((32, 200),)),
        ("gru", "gru", ((72, 32), (72, 24))),
        ("hidden", "linear", ((32, 24),)),
        ("output", "linear", ((29, 32),)),
    ]
    assert [matrix.name for matrix in layers[1].matrices] == ["gru.weight_ih_l0", "gru.weight_hh_l0"]
    assert [matrix.kind for matrix in layers[1].matrices] == ["gru_ih", "gru_hh"]


def test_groups_tied_weights_and_what_cannot_be_factored():
    layers = {layer.name: layer for layer in Everything().layers}
    assert list(layers) == ["embedding", "encoder", "stack", "lstm_cell", "gru_cell"]
    # Tied to the output layer.
    assert [(matrix.name, matrix.kind) for matrix in layers["embedding"].matrices] == [
        ("embedding.weight", "embedding")
    ]
    assert [matrix.name for matrix in layers["encoder"].matrices] == [
        f"{module}.weight_{part}_l0" for module in ("ahead", "behind") for part in ("ih", "hh")
    ]
    assert [matrix.name for matrix in layers["stack"].matrices] == [
        f"stack.weight_{part}_l{layer}{suffix}"
        for layer in (0, 1)
        for suffix in ("", "_reverse")
        for part in ("ih", "hh")
    ]
    assert [matrix.name for matrix in layers["gru_cell"].matrices] == ["gru_cell.weight_ih", "gru_cell.weight_hh"]


def test_layers_and_ranks_of_a_compressed_model():
    model = Everything()
    compressed = compress(model, {"encoder": 2, "stack.weight_hh_l1": 3, "gru_cell": 12})
    assert compressed.layers == model.layers
    assert ranks_of(model) == {}
    assert list(ranks_of(compressed).items()) == [
        *((f"{module}.weight_{part}_l0", 2) for module in ("ahead", "behind") for part in ("ih", "hh")),
        ("stack.weight_hh_l1", 3),
    ]


def test_prefixes_are_whole_names():
    model = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("ctc", "ctc2")})
    for exclude in "ctc", "ctc.":
        assert [layer.name for layer in find_layers(model, exclude=[exclude])] == ["ctc2"]


def test_subclasses_and_computed_weights_are_left_alone():
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    with pytest.warns(UserWarning, match=r"module '1' \(ParametrizedLinear\) stays dense: its weight is computed"):
        assert find_layers(nn.ModuleList([Scaled(8, 8), weight_norm(nn.Linear(8, 8))])) == ()


def test_a_module_used_twice_is_one_layer():
    shared = nn.Linear(8, 8)
    (layer,) = find_layers(nn.ModuleList([shared, shared]))
    assert [matrix.name for matrix in layer.matrices] == ["0.weight"]


def test_a_matrix_that_is_tied_to_something_else_is_left_out():
    model = nn.Module()
    model.output, model.embedding = nn.Linear(8, 20), nn.Embedding(20, 8)
    model.output.weight = model.embedding.weight
    assert [layer.name for layer in find_layers(model)] == ["output"]
    for place in "output", "embedding":
        assert find_layers(model, exclude=[place]) == ()
    model.table = model.embedding.weight
    assert find_layers(model) == ()


class Attention(nn.Module):
    """What libraries write themselves."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(8, 8))


@pytest.mark.parametrize(
    "names",
    [
        ["k_proj", "v_proj", "q_proj", "out_proj"],
        ["q_proj", "k_proj", "v_proj", "o_proj"],
        ["query", "key", "value"],
        ["linear_q", "linear_k", "linear_v", "linear_out"],
    ],
)
def test_the_projections_of_an_attention_module_are_one_layer(names):
    model = nn.ModuleDict({"attention": Attention([*names, "other"]), "fc1": nn.Linear(8, 16)})
    layers = find_layers(model)
    assert [layer.name for layer in layers] == ["attention", "attention.other", "fc1"]
    assert {matrix.name for matrix in layers[0].matrices} == {f"attention.{name}.weight" for name in names}
    # A group that takes one of them leaves the others alone.
    split = find_layers(model, {"mine": [f"attention.{names[0]}"]})
    assert [len(layer.matrices) for layer in split] == [1] * (len(names) + 2)
    assert [layer.shapes for layer in find_layers(model, exclude=["attention"])] == [((16, 8),)]


def test_torchs_attention():
    model = nn.ModuleDict({"layer": nn.TransformerEncoderLayer(8, 2, 16)})
    layers = find_layers(model)
    assert [(layer.name, layer.shapes) for layer in layers] == [
        ("layer.self_attn", ((24, 8), (8, 8))),
        ("layer.linear1", ((16, 8),)),
        ("layer.linear2", ((8, 16),)),
    ]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"x": ["a", "nothing"]}, "'nothing' is not a module"),
        ({"x": ["a", "b"], "y": ["b"]}, "'b' is grouped twice"),
        ({"x": ["a", "a"]}, "'a' is grouped twice"),
        ({"x": ["a", "c"]}, "'x' must hold modules of one kind"),
        ({"b": ["a"]}, "'b' has the name of a module outside it"),
    ],
)
def test_bad_groups(groups, message):
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8), "c": nn.LSTM(8, 8)})
    with pytest.raises(ValueError, match=message):
        find_layers(model, groups)


def test_a_group_may_have_the_name_of_its_first_module():
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    (layer,) = find_layers(model, {"a": ["a", "b"]})
    assert (layer.name, len(layer.matrices)) == ("a", 2)
