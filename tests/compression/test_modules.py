from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from shrinkml_env.compression import Factors
from shrinkml_env.compression.modules import LOW_RANK_MODULES, LowRank, module_matrices

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(autouse=True, scope="module", params=["factors", "pivoting"])
def form(request):
    """Every test is for both forms of the factors."""
    random_factors.form = request.param


def random_factors(rows: int, columns: int, rank: int, generator: torch.Generator) -> tuple[Factors, Tensor]:
    """Factors of the form that is under test, and their product."""
    u = torch.randn(rows, rank, generator=generator) / columns**0.5
    v = torch.randn(rank, columns, generator=generator) / rank**0.5
    if random_factors.form == "factors" or rank > columns:
        return Factors(u, v), u @ v
    order = torch.randperm(columns, generator=generator)
    dense = torch.empty(rows, columns)
    dense[:, order[:rank]], dense[:, order[rank:]] = u, u @ v[:, rank:]
    return Factors(u, v[:, rank:].contiguous(), order.to(torch.int16)), dense


def factored(module: nn.Module, rank: int, which: str = "") -> tuple[LowRank, nn.Module]:
    """The low-rank form with random factors in all matrices whose name contains `which`, and its dense twin."""
    generator = torch.Generator().manual_seed(1)
    factors, twin = {}, copy.deepcopy(module)
    for matrix in module_matrices(module):
        if which in matrix.name:
            factors[matrix.name], product = random_factors(matrix.rows, matrix.columns, rank, generator)
            parameter = getattr(twin, matrix.name)
            parameter.data = product.view(parameter.shape)
    low_rank = LOW_RANK_MODULES[type(module)](module, factors)
    for name, child in module.named_children():
        low_rank.add_module(name, copy.deepcopy(child))
    return low_rank, twin


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def assert_same(actual: object, expected: object) -> None:
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def check(low_rank: nn.Module, dense: nn.Module, *inputs: object) -> None:
    """Without gradients and with them, by the fast and by the differentiable way."""
    with torch.no_grad():
        assert_same(low_rank(*inputs), dense(*inputs))
    assert_same(low_rank(*inputs), dense(*inputs))


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 9), st.booleans())
@settings(deadline=None)
def test_linear(inputs, outputs, rank, bias):
    low_rank, dense = factored(nn.Linear(inputs, outputs, bias=bias), rank)
    check(low_rank, dense, random(3, 4, inputs))


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2), st.integers(1, 6), st.booleans())
@settings(deadline=None)
def test_conv1d(kernel, stride, padding, dilation, rank, bias):
    conv = nn.Conv1d(4, 6, kernel, stride=stride, padding=padding, dilation=dilation, bias=bias)
    low_rank, dense = factored(conv, rank)
    check(low_rank, dense, random(2, 4, 15))
    check(low_rank, dense, random(4, 15))


def test_embedding():
    low_rank, dense = factored(nn.Embedding(9, 5, padding_idx=2), 3)
    tokens = torch.tensor([[0, 8, 2], [2, 4, 4]])
    check(low_rank, dense, tokens)
    low_rank(tokens).sum().backward()
    untouched = low_rank.weight_u.grad.abs().sum(1) == 0
    assert untouched.tolist() == [row not in (0, 4, 8) for row in range(9)]  # 2 is padding.


def test_embeddings_that_rescale_their_rows_stay_dense():
    assert module_matrices(nn.Embedding(9, 5, max_norm=1.0)) == ()


MASKS = {
    "none": {},
    "causal": {"attn_mask": torch.ones(4, 6).tril().log()},
    "forbidden": {"attn_mask": torch.arange(24).view(4, 6) % 5 == 3},
    "each head": {"attn_mask": torch.arange(3 * 2 * 24).view(6, 4, 6) % 7 == 3},
    "padding": {"key_padding_mask": torch.arange(6) >= torch.tensor([[6], [3], [5]])},
    "added padding": {"key_padding_mask": torch.randn(3, 6, generator=torch.Generator().manual_seed(3))},
    "both": {
        "attn_mask": torch.arange(24).view(4, 6) % 5 == 3,
        "key_padding_mask": torch.arange(6) >= torch.tensor([[6], [5], [5]]),
    },
}


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 7, "vdim": 5}], ids=["packed", "separate"])
def test_attention(sizes, batch_first, masks):
    low_rank, dense = factored(nn.MultiheadAttention(8, 2, batch_first=batch_first, **sizes), 3)
    parts = [random(3, 4, 8), random(3, 6, sizes.get("kdim", 8)), random(3, 6, sizes.get("vdim", 8))]
    inputs = parts if batch_first else [part.transpose(0, 1) for part in parts]
    for options in ({}, {"average_attn_weights": False}, {"need_weights": False}):
        with torch.no_grad():
            assert_same(low_rank(*inputs, **masks, **options), dense(*inputs, **masks, **options))
    if not masks:
        alone = [part[0] for part in parts]
        assert_same(low_rank(*alone), dense(*alone))


def test_attention_without_bias_or_with_one_factored_matrix():
    for module, which in ((nn.MultiheadAttention(8, 2, bias=False), ""), (nn.MultiheadAttention(8, 2, kdim=7), "k_")):
        low_rank, dense = factored(module, 3, which)
        inputs = random(4, 3, 8), random(6, 3, module.kdim), random(6, 3, 8)
        check(low_rank, dense, *inputs)


def test_attention_with_more_keys_than_it_is_given_stays_dense():
    for options in {"add_bias_kv": True}, {"add_zero_attn": True}:
        assert module_matrices(nn.MultiheadAttention(8, 2, **options)) == ()


@pytest.mark.parametrize("index", [0, 1])
def test_attention_in_torchs_encoder(index):
    """It has a fast path of its own, and packs padded batches into nested tensors on the way there."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    with torch.no_grad():  # The copies of the layer begin alike.
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    low_rank, dense = copy.deepcopy(encoder), copy.deepcopy(encoder)
    for name in "self_attn", "linear1":
        pair = factored(getattr(encoder.layers[index], name), 3)
        setattr(low_rank.layers[index], name, pair[0].eval())
        setattr(dense.layers[index], name, pair[1].eval())
    inputs, padding = random(3, 6, 8), torch.arange(6) >= torch.tensor([[6], [3], [5]])
    for mask in None, padding:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The PyTorch API of nested tensors")
            assert_same(low_rank(inputs, src_key_padding_mask=mask), dense(inputs, src_key_padding_mask=mask))


def test_conv1d_with_padding_by_name():
    low_rank, dense = factored(nn.Conv1d(4, 6, 4, padding="same"), 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same'")  # Torch says it once a process.
        check(low_rank, dense, random(2, 4, 15))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@given(
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    units=st.integers(2, 6),
    rank=st.integers(1, 7),
    which=st.sampled_from(["", "ih_l0", "hh_", "_reverse"]),
)
@settings(max_examples=40, deadline=None)
def test_recurrent(kind, layers, bidirectional, batch_first, bias, units, rank, which):
    module = kind(5, units, num_layers=layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    low_rank, dense = factored(module, rank, which)
    shape = (3, 7) if batch_first else (7, 3)
    check(low_rank, dense, random(*shape, 5))
    check(low_rank, dense, random(7, 5))
    start = random(layers * (1 + bidirectional), 3, units)
    check(low_rank, dense, random(*shape, 5), (start, start) if kind is nn.LSTM else start)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences(kind, bidirectional):
    low_rank, dense = factored(kind(5, 4, bidirectional=bidirectional), 2)
    packed = pack_padded_sequence(random(7, 3, 5), torch.tensor([4, 7, 2]), enforce_sorted=False)
    (actual, actual_state), (expected, expected_state) = low_rank(packed), dense(packed)
    assert_same(pad_packed_sequence(actual), pad_packed_sequence(expected))
    assert_same(actual_state, expected_state)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("which", ["", "ih", "hh"])
def test_cells(kind, bias, which):
    low_rank, dense = factored(kind(5, 6, bias=bias), 2, which)
    check(low_rank, dense, random(3, 5))
    check(low_rank, dense, random(5))
    state = random(3, 6)
    check(low_rank, dense, random(3, 5), (state, state) if kind is nn.LSTMCell else state)


def test_dropout_between_layers_acts_in_training_only():
    low_rank, dense = factored(nn.LSTM(5, 4, num_layers=2, dropout=0.5).eval(), 2)
    inputs = random(7, 3, 5)
    with torch.no_grad():
        assert_same(low_rank(inputs), dense(inputs))
        low_rank.train()
        assert not torch.allclose(low_rank(inputs)[0], dense(inputs)[0])


def test_state_holds_the_factors_and_nothing_dense():
    low_rank, _ = factored(nn.LSTM(5, 4), 2, "hh")
    with torch.no_grad():
        low_rank(random(7, 3, 5))
    right = {"weight_hh_l0_v": (2, 4)}
    if random_factors.form == "pivoting":
        right = {"weight_hh_l0_v": (2, 2), "weight_hh_l0_order": (4,)}
    assert {name: tuple(tensor.shape) for name, tensor in low_rank.state_dict().items()} == {
        "weight_ih_l0": (16, 5),
        "weight_hh_l0_u": (16, 2),
        "bias_ih_l0": (16,),
        "bias_hh_l0": (16,),
        **right,
    }
    assert low_rank.ranks == {"weight_hh_l0": 2}
    assert list(low_rank.modules()) == [low_rank]


MODULES = [
    nn.Linear(5, 4),
    nn.Conv1d(5, 4, 3),
    nn.LSTM(5, 4),
    nn.GRU(5, 4, num_layers=2),
    nn.LSTMCell(5, 4),
    nn.GRUCell(5, 4),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_gradients_reach_both_factors_and_are_those_of_the_dense_matrix(module):
    low_rank, dense = factored(module, 2)
    inputs = random(6, 5, 7) if isinstance(module, nn.Conv1d) else random(6, 5)
    state = {nn.LSTMCell: [(random(6, 4), random(6, 4))], nn.GRUCell: [random(6, 4)]}.get(type(module), [])
    for model in low_rank, dense:
        outputs = model(inputs, *state)
        while not isinstance(outputs, Tensor):
            outputs = outputs[0]
        outputs.square().sum().backward()
    for name in low_rank.ranks:
        u, v = getattr(low_rank, f"{name}_u"), getattr(low_rank, f"{name}_v")
        gradient = getattr(dense, name).grad.flatten(1)
        assert gradient.any()
        order = low_rank.factors(name).order
        if order is None:
            assert_same(u.grad, gradient @ v.detach().T)
            assert_same(v.grad, u.detach().T @ gradient)
        else:  # W = U [I T] P
            kept, others = gradient[:, order[:2].int()], gradient[:, order[2:].int()]
            assert_same(u.grad, kept + others @ v.detach().T)
            assert_same(v.grad, u.detach().T @ others)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_a_training_step_changes_what_is_computed_afterwards(module):
    low_rank, _ = factored(copy.deepcopy(module), 2)
    inputs = random(6, 5, 7) if isinstance(module, nn.Conv1d) else random(6, 5)

    def run() -> Tensor:
        with torch.inference_mode():
            outputs = low_rank(inputs)
        return outputs if isinstance(outputs, Tensor) else outputs[0]

    before = run()
    assert torch.equal(run(), before)
    optimiser = torch.optim.SGD(low_rank.parameters(), lr=0.1)
    for parameter in low_rank.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    after = run()
    assert not torch.allclose(after, before)
    low_rank.double().float()
    assert_same(run(), after)
    fresh = pickle.loads(pickle.dumps(low_rank))
    low_rank.load_state_dict({name: torch.zeros_like(value) for name, value in low_rank.state_dict().items()})
    assert not run().any()
    with torch.inference_mode():
        again = fresh(inputs)
    assert_same(again if isinstance(again, Tensor) else again[0], after)


def test_what_is_written_past_autograd_needs_a_refresh():
    """No version counts writes through `data`, as averages of weights are written."""
    low_rank, dense = factored(nn.LSTM(5, 4).requires_grad_(False), 2)
    inputs = random(7, 3, 5)
    low_rank(inputs)
    for name in low_rank.ranks:
        low_rank.factors(name).u.data.mul_(2)
        getattr(dense, name).data.mul_(2)
    low_rank.refresh()
    assert_same(low_rank(inputs)[0], dense(inputs)[0])


def test_what_inference_mode_cached_serves_training_too():
    low_rank, dense = factored(nn.LSTM(5, 4).requires_grad_(False), 2)
    with torch.inference_mode():
        low_rank(random(7, 3, 5))
    inputs = random(7, 3, 5).requires_grad_()
    low_rank(inputs)[0].sum().backward()
    gradient, inputs.grad = inputs.grad, None
    dense(inputs)[0].sum().backward()
    assert_same(gradient, inputs.grad)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_a_factored_matrix_can_still_be_read(module):
    low_rank, dense = factored(module, 2)
    for name in low_rank.ranks:
        assert_same(getattr(low_rank, name), getattr(dense, name))
    with pytest.raises(AttributeError):
        _ = low_rank.nothing


def test_the_matrices_are_the_replaced_modules():
    for module in MODULES:
        low_rank, _ = factored(module, 2)
        assert module_matrices(low_rank) == module_matrices(module)


def test_factors_must_fit():
    with pytest.raises(ValueError, match=r"weight: factors \(4, 2\) and \(2, 6\) .* \(4, 5\)"):
        LOW_RANK_MODULES[nn.Linear](nn.Linear(5, 4), {"weight": Factors(torch.zeros(4, 2), torch.zeros(2, 6))})
    with pytest.raises(ValueError, match="no matrix 'bias'"):
        LOW_RANK_MODULES[nn.Linear](nn.Linear(5, 4), {"bias": Factors(torch.zeros(4, 2), torch.zeros(2, 5))})


def test_repr_tells_the_rank():
    low_rank, _ = factored(nn.Linear(5, 4), 2)
    assert repr(low_rank) == "LowRankLinear(in_features=5, out_features=4, bias=True, ranks={'weight': 2})"
