from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkml_env.compression import (
    compress,
    count_parameters,
    decompress,
    load_compressed,
    ranks_of,
    round_to_storage,
    save_compressed,
)
from tests.helpers.models import Everything, TinyCTC, tones

RANKS = {"front": 9, "gru": 5, "output": 3}


def test_computes_the_same_with_dense_matrices_of_the_same_rank():
    compressed = compress(TinyCTC(seed=3), RANKS)
    dense = decompress(compressed)
    assert type(dense) is TinyCTC
    assert ranks_of(dense) == {}
    assert count_parameters(dense) == count_parameters(TinyCTC())
    assert {name: parameter.shape for name, parameter in dense.named_parameters()} == {
        name: parameter.shape for name, parameter in TinyCTC().named_parameters()
    }
    for name, rank in ranks_of(compressed).items():
        weight = dense.get_parameter(name).detach()
        product = compressed.get_parameter(f"{name}_u") @ compressed.get_parameter(f"{name}_v")
        torch.testing.assert_close(weight.view(product.shape), product, rtol=1e-5, atol=1e-6)
        values = torch.linalg.svdvals(weight.double().flatten(1))
        assert values[rank:].max() < 1e-6 * values[0] < values[rank - 1]
    for waveform in tones():
        torch.testing.assert_close(compressed.logits(waveform), dense.logits(waveform), rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.fixed_dictionaries({}, optional={layer.name: st.integers(1, layer.max_rank) for layer in TinyCTC().layers}))
def test_compressing_again_at_the_same_ranks_changes_nothing(ranks):
    once = compress(TinyCTC(), ranks)
    twice = compress(decompress(once), ranks)
    assert ranks_of(twice) == ranks_of(once)
    for waveform in tones(1):
        torch.testing.assert_close(once.logits(waveform), twice.logits(waveform), rtol=1e-3, atol=1e-3)


def test_ties_buffers_stacks_and_cells():
    model = Everything()
    units = torch.arange(30).view(3, 10) % 20
    model(units)  # In training mode: the batch norm's statistics move.
    model.eval()
    compressed = compress(model, {"embedding": 4, "encoder": 2, "stack": 3, "lstm_cell": 1, "gru_cell": 2})
    dense = decompress(compressed)
    assert dense.output.weight is dense.embedding.weight
    assert torch.equal(dense.norm.running_mean, model.norm.running_mean)
    with torch.no_grad():
        torch.testing.assert_close(dense(units), compressed(units), rtol=1e-4, atol=1e-5)


def test_is_a_model_of_its_own():
    original = TinyCTC()
    before = original.logits(tones(1)[0])
    compressed = compress(original, RANKS).train()
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    dense = decompress(compressed)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert dense.training
    assert torch.equal(dense.auxiliary.weight, original.auxiliary.weight)  # What only training uses is taken along.
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
    assert torch.equal(original.logits(tones(1)[0]), before)
    assert compressed.gru.weight_ih_l0_u.any()


def test_products_need_more_digits_than_their_factors(tmp_path):
    dense = decompress(compress(TinyCTC(), RANKS))
    save_compressed(dense, tmp_path / "exact")
    exact = load_compressed(tmp_path / "exact")
    assert torch.equal(exact.gru.weight_ih_l0, dense.gru.weight_ih_l0)
    dense.storage_dtype = torch.float16
    with pytest.raises(ValueError, match="does not represent exactly"):
        save_compressed(dense, tmp_path / "half")
    round_to_storage(dense)
    save_compressed(dense, tmp_path / "half")
    rounded = load_compressed(tmp_path / "half").gru.weight_ih_l0
    assert ((rounded - exact.gru.weight_ih_l0).abs() <= exact.gru.weight_ih_l0.abs() * 2**-11 + 2**-25).all()
    assert compress(load_compressed(tmp_path / "half"), RANKS).storage_dtype == torch.float16
