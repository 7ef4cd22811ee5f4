from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from shrinkml_env.compression import compress, second_moments
from tests.helpers.around import Around, Tied, assert_same, random
from tests.helpers.models import TinyCTC, tones


def moment(vectors: Tensor) -> Tensor:
    """E[x x^T] of (positions, n), by its definition."""
    return torch.stack([torch.outer(x, x) for x in vectors.detach().double()]).mean(0)


def moments_of(module: nn.Module, *calls: object) -> dict[str, Tensor]:
    return {name.removeprefix("module."): value for name, value in second_moments(Around(module), calls).items()}


def test_linear_by_hand():
    # Positions (1, 2, 0, 0) and (3, 0, 0, 0): the mean of [1 2; 2 4] and [9 0; 0 0] in the corner.
    calls = torch.tensor([[1.0, 2, 0, 0]]), torch.tensor([[[3.0, 0, 0, 0]]])
    found = moments_of(nn.Linear(4, 5), *calls)["weight"]
    assert found[:2, :2].tolist() == [[5, 1], [1, 2]]
    assert not found[2:].any()
    assert not found[:, 2:].any()


def test_many_positions_and_few_at_a_time_are_the_same():
    vectors = random(1100, 6)
    (whole,) = moments_of(nn.Linear(6, 5), vectors).values()
    (single,) = moments_of(nn.Linear(6, 5), *vectors[:, None]).values()
    assert_same(whole, vectors.double().T @ vectors.double() / 1100)
    assert_same(single, whole)


@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from([0, 2, "same", "valid"]), st.integers(1, 2))
@settings(deadline=None)
def test_windows_of_a_convolution_give_its_output(kernel, stride, padding, dilation):
    """The output is W x: its second moment is W E[x x^T] W^T."""
    stride = 1 if padding == "same" else stride
    assume(padding != "same" or dilation * (kernel - 1) % 2 == 0)  # Otherwise torch warns, once in a process.
    module = nn.Conv1d(3, 5, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)
    inputs = random(2, 3, 15)
    (found,) = second_moments(Around(module), [inputs], ["module.weight"]).values()
    weight = module.weight.detach().double().flatten(1)
    assert_same(weight @ found @ weight.T, moment(module(inputs).transpose(1, 2).flatten(0, 1)))


def by_hand(kind: type[nn.Module], module: nn.Module, layer: int, reverse: bool, inputs: Tensor, start: Tensor):
    """The states of one direction of one layer, step by step with a cell: (time, units), those before, those after."""
    suffix = f"_l{layer}{'_reverse' if reverse else ''}"
    cell = kind(inputs.shape[1], module.hidden_size)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(cell, name).data = getattr(module, name + suffix).data
    hidden, memory = start, 0.5 * start
    before, after = [], []
    for x in inputs.flip(0) if reverse else inputs:
        before.append(hidden)
        if kind is nn.LSTMCell:
            hidden, memory = cell(x, (hidden, memory))
        else:
            hidden = cell(x, hidden)
        after.append(hidden)
    if reverse:
        before.reverse(), after.reverse()
    return torch.stack(before), torch.stack(after)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("given_start", [False, True])
@torch.no_grad()
def test_recurrent_layers_step_by_step(cell, layers, bidirectional, given_start):
    directions = 1 + bidirectional
    kind = nn.LSTM if cell is nn.LSTMCell else nn.GRU
    module = kind(5, 4, num_layers=layers, bidirectional=bidirectional, batch_first=layers == 2)
    inputs = random(3, 7, 5)
    start = random(layers * directions, 3, 4, seed=1) if given_start else torch.zeros(layers * directions, 3, 4)
    batch = inputs if module.batch_first else inputs.transpose(0, 1)
    state = ((start, 0.5 * start) if kind is nn.LSTM else start,) if given_start else ()
    found = moments_of(module, (batch, *state))
    seen: dict[str, list[Tensor]] = {name: [] for name in found}
    for index, sequence in enumerate(inputs):
        for layer in range(layers):
            outputs = []
            for direction in range(directions):
                first = start[layer * directions + direction, index]
                before, after = by_hand(cell, module, layer, bool(direction), sequence, first)
                suffix = f"_l{layer}{'_reverse' if direction else ''}"
                seen[f"weight_ih{suffix}"].append(sequence)
                seen[f"weight_hh{suffix}"].append(before)
                outputs.append(after)
            sequence = torch.cat(outputs, dim=1)
    assert len(found) == 2 * layers * directions
    for name, vectors in seen.items():
        assert_same(found[name], moment(torch.cat(vectors)))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_packed_and_single_sequences(kind):
    module = kind(5, 4, num_layers=2, bidirectional=True)
    inputs, lengths = random(7, 3, 5), [4, 7, 2]
    packed = pack_padded_sequence(inputs, torch.tensor(lengths), enforce_sorted=False)
    alone = [inputs[:length, index] for index, length in enumerate(lengths)]
    found, expected = moments_of(module, packed), moments_of(module, *alone)
    assert len(found) == 8
    for name, value in found.items():
        assert_same(value, expected[name])


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
def test_cells(kind):
    module, inputs, state = kind(5, 4), random(6, 5), random(6, 4, seed=1)
    found = moments_of(module, (inputs, (state, random(6, 4)) if kind is nn.LSTMCell else state))
    assert_same(found["weight_ih"], moment(inputs))
    assert_same(found["weight_hh"], moment(state))
    assert not moments_of(module, inputs[0])["weight_hh"].any()


def test_embedding_counts_its_rows():
    # Row 1 twice, row 3 once, of 5: (2 + 1) / 8 and (1 + 1) / 8 with one more of each.
    found = moments_of(nn.Embedding(5, 4), torch.tensor([[1, 3]]), torch.tensor([1]))["weight"]
    assert found.tolist() == [0.125, 0.375, 0.125, 0.25, 0.125]


def test_tied_embedding_and_output_layer():
    """Its moment is the sum of both expected squared errors, for every error of the matrix, if all tokens are equal."""
    model, hidden = Tied(), random(3, 6)
    (found,) = moments_of(model, (torch.arange(20).repeat(2), hidden)).values()
    error = random(20, 6, seed=1).double()
    expected = (hidden.double() @ error.T).square().sum() / 3 + 2 * error.square().sum() / 3
    torch.testing.assert_close((error @ found @ error.T).trace(), expected)


def test_attention():
    module = nn.MultiheadAttention(8, 2, kdim=7, vdim=5, batch_first=True)
    query, key, value = random(3, 4, 8), random(3, 6, 7), random(3, 6, 5)
    found = moments_of(module, (query, key, value))
    assert_same(found["q_proj_weight"], moment(query.flatten(0, 1)))
    assert_same(found["k_proj_weight"], moment(key.flatten(0, 1)))
    assert_same(found["v_proj_weight"], moment(value.flatten(0, 1)))
    # What the output projection sees is what the module returns with an identity in its place.
    identity = copy.deepcopy(module)
    identity.out_proj.weight.data, identity.out_proj.bias.data = torch.eye(8), torch.zeros(8)
    with torch.no_grad():
        assert_same(found["out_proj.weight"], moment(identity(query, key, value)[0].flatten(0, 1)))


def test_packed_attention_projections():
    module, query, other = nn.MultiheadAttention(8, 2), random(4, 8), random(6, 8, seed=1)
    assert_same(moments_of(module, (query, query, query))["in_proj_weight"], moment(query))
    found = moments_of(module, (query, other, other))["in_proj_weight"]
    assert_same(found, moment(torch.cat([query, other, other])))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("padding", [None, torch.tensor([[False] * 6])])
def test_attention_in_torchs_encoder(padding):
    """Which has a fast path that calls no module."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    inputs = random(1, 6, 8)
    found = moments_of(encoder, (inputs, None, padding))
    names = {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"}
    assert set(found) == {f"layers.{index}.{name}" for index in (0, 1) for name in names}
    assert_same(found["layers.0.self_attn.in_proj_weight"], moment(inputs[0]))


def test_what_is_not_used_is_left_out_and_the_model_is_as_before():
    model = TinyCTC()
    names = {matrix.name for layer in model.layers for matrix in layer.matrices}
    assert set(second_moments(model, tones(2))) == names
    assert set(second_moments(model, tones(2), ["front.weight"])) == {"front.weight"}
    assert second_moments(model, []) == {}
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_go_when_recognition_fails():
    model = TinyCTC()
    with pytest.raises(AttributeError):
        second_moments(model, [None])
    assert not any(module._forward_hooks for module in model.modules())


def test_the_same_whatever_the_number_of_threads():
    first = second_moments(TinyCTC(), tones(2))
    torch.set_num_threads(2)
    second = second_moments(TinyCTC(), tones(2))
    assert torch.get_num_threads() == 2
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_errors():
    with pytest.raises(ValueError, match="training mode"):
        second_moments(TinyCTC().train(), tones(1))
    with pytest.raises(ValueError, match=r"'nothing\.weight'"):
        second_moments(TinyCTC(), tones(1), ["nothing.weight"])
    with pytest.raises(ValueError, match="compressed already"):
        second_moments(compress(TinyCTC(), {"hidden": 3}), tones(1), ["hidden.weight"])
