from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from shrinkml_env.compression import (
    SVD,
    ActivationAwareSVD,
    arranged_layers,
    compress,
    compressed_parameters,
    count_macs,
    count_parameters,
    decompress,
    file_bytes,
    find_layers,
    load_compressed,
    matrix_ranks,
    optimise_for_inference,
    quantise,
    ranks_of,
    round_to_storage,
    save_compressed,
)
from shrinkml_env.compression.factors import times_right
from shrinkml_env.compression.layers import Layer, Matrix, arrange_layers, stack_name
from shrinkml_env.compression.modules import LowRank
from shrinkml_env.compression.pivoting import LARGEST, column_order, interpolation
from shrinkml_env.compression.protocol import Workload
from tests.helpers.files import put_tensor
from tests.helpers.las import make_model
from tests.helpers.models import TinyCTC, tones

RANKS = {"front.weight": 9, "gru.weight_ih_l0": 23, "gru.weight_hh_l0": 5, "output.weight": 3}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 999), st.floats(-8, 8))
@settings(deadline=None)
def test_other_columns_are_small_combinations_of_the_first(rank, others, seed, slope):
    columns = rank + others
    scales = 10.0 ** (slope * torch.arange(columns, dtype=torch.float64) / columns)
    v = random(rank, columns, seed=seed) * scales
    order = column_order(v)
    assert sorted(order.tolist()) == list(range(columns))
    combinations = interpolation(v, order)
    assert not len(combinations[0]) or combinations.abs().max() <= LARGEST * (1 + 1e-6)
    torch.testing.assert_close(v[:, order[:rank]] @ combinations, v[:, order[rank:]], rtol=1e-6, atol=1e-9)


def test_where_column_pivoting_alone_grows():
    """Kahan's matrix, of which QR with column pivoting exchanges nothing: T then grows as 2^n."""
    size, c = 30, 0.3
    s = (1 - c * c) ** 0.5
    kahan = np.diag(s ** np.arange(size)) @ (np.eye(size) - c * np.triu(np.ones((size, size)), 1))
    v = torch.from_numpy(kahan[:-1])
    plain = interpolation(v, torch.arange(size))
    assert plain.abs().max() > 100
    assert interpolation(v, column_order(v)).abs().max() <= LARGEST * (1 + 1e-6)


@pytest.mark.parametrize("rank", [1, 5, 11])
def test_the_product_is_that_of_two_factors(rank):
    model = TinyCTC()
    model.storage_dtype = torch.float32
    for name in RANKS:
        two, pivoting = SVD(model).factors(name, rank), SVD(model, form="pivoting").factors(name, rank)
        torch.testing.assert_close(pivoting.product, two.product, rtol=1e-4, atol=1e-5)
        assert pivoting.shape == two.shape
        assert torch.equal(pivoting.product[:, pivoting.order[:rank].int()], pivoting.u)


def test_factors_are_representable_in_the_storage_format():
    svd = SVD(TinyCTC(), form="pivoting")
    for name, rank in RANKS.items():
        u, v, order = svd.factors(name, rank)
        for factor in u, v:
            assert factor.dtype == torch.float32
            assert torch.equal(factor, factor.half().float())
        assert order.dtype == torch.int16


def test_half_precision_loses_as_little_as_with_two_factors():
    model = TinyCTC()
    exact = TinyCTC()
    exact.storage_dtype = torch.float32
    for name, rank in RANKS.items():
        expected = SVD(exact).factors(name, rank).product
        two, pivoting = (SVD(model, form=form).factors(name, rank).product for form in ("factors", "pivoting"))
        assert (pivoting - expected).norm() <= 2 * (two - expected).norm()


def test_matrices_without_full_rank():
    model = TinyCTC()
    with torch.no_grad():
        model.output.weight.zero_()
        model.gru.weight_hh_l0[:, 3:] = 0
    svd = SVD(model, form="pivoting")
    assert not svd.factors("output.weight", 3).product.any()
    found = svd.factors("gru.weight_hh_l0", 9).product
    torch.testing.assert_close(found, model.gru.weight_hh_l0.detach(), rtol=1e-3, atol=1e-3)


def test_key_tells_the_form():
    assert SVD(TinyCTC(), [], form="pivoting").key == "svd-float16-pivoting"


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_rank_below_full_is_smaller_than_dense(rows, columns):
    matrix = Matrix("a", rows, columns, "linear", "pivoting")
    assert matrix.break_even == min(rows, columns) - 1
    for rank in range(1, matrix.break_even + 1):
        assert matrix.parameters(rank) == rank * (rows + columns - rank) < rows * columns
    assert matrix.parameters(matrix.max_rank) == rows * columns


def test_counts_are_those_of_the_model_and_of_its_file(tmp_path):
    model = TinyCTC()
    svd = SVD(model, form="pivoting")
    compressed = compress(model, RANKS, svd)
    shapes = {m.name: (m.rows, m.columns) for layer in model.layers for m in layer.matrices}
    saved = sum(m * n - r * (m + n - r) for (m, n), r in ((shapes[name], rank) for name, rank in RANKS.items()))
    assert count_parameters(compressed) == count_parameters(model) - saved
    assert compressed_parameters(model, RANKS, svd) == count_parameters(compressed)
    assert compressed_parameters(compressed, {}) == count_parameters(model)
    # Two bytes for each number of the float16, and for each column of a matrix in its order.
    gained = file_bytes(model) - file_bytes(compressed)
    orders = sum(shapes[name][1] for name in RANKS)
    assert abs(gained - 2 * (saved - orders)) < 2000  # The header.


def test_saved_and_loaded(tmp_path):
    model = TinyCTC()
    compressed = compress(model, RANKS, SVD(model, form="pivoting"))
    save_compressed(compressed, tmp_path)
    loaded = load_compressed(tmp_path)
    assert ranks_of(loaded) == ranks_of(compressed) == RANKS
    assert {m.form for layer in arranged_layers(loaded) for m in layer.matrices} == {"pivoting"}
    for (name, tensor), (other, expected) in zip(
        loaded.state_dict().items(), compressed.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(tensor, expected), name
    assert loaded.transcribe(tones(3)) == compressed.transcribe(tones(3))
    dense = decompress(loaded)
    for name in RANKS:
        torch.testing.assert_close(
            dense.get_parameter(name), getattr(compressed.get_submodule(name.rpartition(".")[0]), name.split(".")[1])
        )


def test_an_order_that_is_none_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    model = TinyCTC()
    save_compressed(compress(model, RANKS, SVD(model, form="pivoting")), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["output.weight_order"][1] = tensors["output.weight_order"][0]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"'output.weight_order' must hold the numbers 0\.\.31 in some order"):
        load_compressed(tmp_path)


def test_names_of_stacks():
    assert stack_name(["a.ahead.weight_ih_l0", "a.behind.weight_ih_l0"]) == "a.ahead+behind.weight_ih_l0"
    assert stack_name(["lstm.weight_ih_l0", "lstm.weight_ih_l0_reverse"]) == "lstm.weight_ih_l0+weight_ih_l0_reverse"
    assert stack_name(["a.q.weight", "a.k.weight", "a.v.weight"]) == "a.q+k+v.weight"
    assert stack_name(["a.b.c", "d.c"]) == "a.b+d.c"


LAYER = Layer("one", "linear", (Matrix("a", 4, 6, "linear"), Matrix("b", 5, 3, "linear"), Matrix("c", 2, 6, "linear")))


def test_a_stack_takes_the_place_of_its_first_matrix():
    (layer,) = arrange_layers([LAYER], "pivoting", [("a", "c")])
    assert [(m.name, m.rows, m.columns, m.form) for m in layer.matrices] == [
        ("a+c", 6, 6, "pivoting"),
        ("b", 5, 3, "pivoting"),
    ]
    assert [part.name for part in layer.matrices[0].parts] == ["a", "c"]
    assert arrange_layers([LAYER]) == (LAYER,)


@pytest.mark.parametrize(
    ("shared", "message"),
    [
        ([("a",)], "layer 'one': a are not two or more matrices of it to stack"),
        ([("a", "a")], "layer 'one': a, a are not two or more matrices of it to stack"),
        ([("a", "d")], "layer 'one': a, d are not two or more matrices"),
        ([("a", "b")], "a, b differ in their number of columns"),
        ([("d", "a")], "no layer has a matrix 'd', which is to be stacked"),
        ([("a", "c"), ("c", "a")], "layer 'one': c, a are not two or more matrices"),
    ],
)
def test_stacks_that_are_none(shared, message):
    with pytest.raises(ValueError, match=message):
        arrange_layers([LAYER], shared=shared)


def test_macs_of_a_stack():
    layers = arrange_layers([LAYER], "pivoting", [("a", "c")])
    workload = Workload(positions={"a": 10, "b": 1, "c": 10}, other_macs=7)
    # Each part multiplies with the right factor, 2 (6 - 2) numbers, and with its own rows.
    assert count_macs(layers, {"a+c": 2, "b": 3}, workload) == 7 + 10 * (8 + 4 * 2) + 15 + 10 * (8 + 2 * 2)
    assert count_macs(layers, {}, workload) == 7 + 10 * 24 + 15 + 10 * 12


class Directions(nn.Module):
    """One LSTM in both directions, and a layer over its states."""

    storage_dtype = torch.float32
    training_only = ()

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, bidirectional=True)
        self.output = nn.Linear(10, 4)
        self.eval()

    @property
    def layers(self):
        return find_layers(self)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output(self.lstm(inputs)[0])

    def recognise(self, waveforms):
        with torch.inference_mode():
            for inputs in waveforms:
                self(inputs)


STACK = "lstm.weight_ih_l0+weight_ih_l0_reverse"


@pytest.mark.parametrize("form", ["factors", "pivoting"])
def test_matrices_that_read_the_same_share_a_right_factor(form):
    torch.manual_seed(3)
    model, speech = Directions(), [random(20, 6).float(), random(31, 6, seed=1).float()]
    found = ActivationAwareSVD(model, speech, form=form, share_inputs=True)
    assert [matrix.name for layer in found.layers for matrix in layer.matrices] == [
        STACK,
        "lstm.weight_hh_l0",
        "lstm.weight_hh_l0_reverse",
        "output.weight",
    ]
    assert matrix_ranks(found.layers, {STACK: 3}) == {STACK: 3}
    compressed = compress(model, {STACK: 3}, found)
    assert compressed.lstm._parameters["weight_ih_l0_v"] is compressed.lstm._parameters["weight_ih_l0_reverse_v"]
    # 2 * 20 rows and 6 columns, and 3 * 3 numbers less in pivoting form.
    saved = 40 * 6 - 3 * (40 + 6 - (3 if form == "pivoting" else 0))
    assert count_parameters(model) - count_parameters(compressed) == saved
    assert ranks_of(compressed) == {STACK: 3}
    assert arranged_layers(compressed) == found.layers
    # The least error of all matrices of rank 3 for both together.
    both = torch.cat([model.lstm.weight_ih_l0, model.lstm.weight_ih_l0_reverse]).detach().double()
    product = torch.cat([compressed.lstm.weight_ih_l0, compressed.lstm.weight_ih_l0_reverse]).detach().double()
    x = torch.cat(speech).double()
    moment = x.T @ x / len(x)
    moment = (moment / moment.diagonal().mean() + 0.01 * torch.eye(6)) / 1.01
    root = torch.linalg.cholesky(moment)
    left, values, right = torch.linalg.svd(both @ root)
    expected = left[:, :3] * values[:3] @ right[:3] @ torch.linalg.inv(root)
    torch.testing.assert_close(product, expected, rtol=1e-3, atol=1e-4)


def test_a_stack_is_saved_once_and_loaded(tmp_path):
    model = make_model()
    round_to_storage(model)
    found = ActivationAwareSVD(model, tones(2), form="pivoting", share_inputs=True)
    stacks = [matrix for layer in found.layers for matrix in layer.matrices if matrix.parts]
    assert [stack.name for stack in stacks] == [
        f"encoder.layers.{index}.lstm.forward_lstm+backward_lstm.weight_ih_l0" for index in range(len(stacks))
    ]
    ranks = {stack.name: 2 for stack in stacks}
    compressed = compress(model, ranks, found)
    save_compressed(compressed, tmp_path)
    loaded = load_compressed(tmp_path)
    assert ranks_of(loaded) == ranks
    assert arranged_layers(loaded) == found.layers
    assert count_parameters(loaded) == count_parameters(compressed) == compressed_parameters(model, ranks, found)
    assert loaded.transcribe(tones(3)) == compressed.transcribe(tones(3))


def test_the_parts_of_a_stack_have_one_order(tmp_path):
    model = make_model()
    round_to_storage(model)
    found = ActivationAwareSVD(model, tones(2), form="pivoting", share_inputs=True)
    stack = next(matrix for layer in found.layers for matrix in layer.matrices if matrix.parts)
    save_compressed(compress(model, {stack.name: 2}, found), tmp_path)
    first, second = (f"{block.name}_order" for block in stack.blocks)
    order = load_file(tmp_path / "model.safetensors")[second]
    put_tensor(tmp_path, second, order.flip(0))
    with pytest.raises(ValueError, match=f"'{re.escape(first)}' and '{re.escape(second)}' must be equal"):
        load_compressed(tmp_path)


def test_int8_on_top(tmp_path):
    pytest.importorskip("torchao")
    model = TinyCTC()
    compressed = compress(model, RANKS, SVD(model, form="pivoting"))
    quantised = quantise(compressed)
    save_compressed(quantised, tmp_path)
    loaded = load_compressed(tmp_path)
    for name in RANKS:
        path, _, parameter = name.rpartition(".")
        expected, found = (form.get_submodule(path).factors(parameter) for form in (compressed, loaded))
        assert torch.equal(found.order, expected.order)
        for one, other in (found.u, expected.u), (found.v, expected.v):
            assert (one - other).abs().max() <= other.abs().max() / 127 + 1e-6
    assert file_bytes(quantised) < file_bytes(compressed)


def test_training_keeps_the_identity():
    model = TinyCTC()
    module = compress(model, RANKS, SVD(model, form="pivoting")).output
    before = module.factors("weight").product.detach()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.randn(5, 32, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimiser.step()
    u, _, order = module.factors("weight")
    product = module.weight.detach()
    assert not torch.equal(product, before)
    assert torch.equal(product[:, order[: len(u[0])].int()], u.detach())
    assert torch.linalg.matrix_rank(product.double(), rtol=1e-5) == u.shape[1]


def test_every_way_to_compute_gives_the_same():
    model = make_model()
    compressed = compress(
        model, {layer.name: 3 for layer in model.layers}, ActivationAwareSVD(model, tones(2), form="pivoting")
    )
    expected = compressed.transcribe(tones(3))
    optimise_for_inference(compressed, tones(3))
    assert compressed.transcribe(tones(3)) == expected
    for execution in ("factored", "merged", "stepwise"):
        for module in compressed.modules():
            if isinstance(module, LowRank) and execution in module.executions:
                module.execution = execution
        assert compressed.transcribe(tones(3)) == expected


@pytest.mark.parametrize("shape", [(7,), (3, 7), (0, 7), (2, 3, 7), (2, 0, 7)])
@pytest.mark.parametrize("strided", [False, True])
def test_the_right_factor_takes_inputs_of_any_shape(shape, strided):
    torch.manual_seed(0)
    inputs = torch.randn(*shape[:-1], 14)[..., ::2] if strided else torch.randn(shape)
    v, order = torch.randn(3, 4), torch.tensor([4, 0, 6, 1, 2, 3, 5], dtype=torch.int16)
    whole = torch.zeros(3, 7)
    whole[:, order.long()] = torch.cat([torch.eye(3), v], dim=1)
    torch.testing.assert_close(times_right(inputs, v, order), inputs @ whole.T)
