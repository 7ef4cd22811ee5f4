from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shrinkml_env.compression import (
    SVD,
    CompressibleModel,
    Workload,
    compress,
    compressed_parameters,
    count_macs,
    count_parameters,
    encoder_parameters,
    find_layers,
    inference_tensors,
    ranks_of,
)
from shrinkml_env.compression.compress import replace_matrices
from tests.helpers.models import Everything, TinyCTC, tones

RANKS = {"front": 9, "gru": 5, "output": 3}


def put_back(model, ranks):
    """The dense model with the products of the factors in place of its matrices."""
    compressed, dense = compress(model, ranks), copy.deepcopy(model)
    assert ranks_of(compressed)
    for name in ranks_of(compressed):
        weight = dense.get_parameter(name)
        u, v = compressed.get_parameter(f"{name}_u"), compressed.get_parameter(f"{name}_v")
        weight.data = (u @ v).detach().view(weight.shape)
    return compressed, dense


def test_the_recogniser_is_compressible():
    assert isinstance(TinyCTC(), CompressibleModel)


def test_outputs_are_those_of_the_dense_model_with_the_products_put_back():
    compressed, dense = put_back(TinyCTC(), RANKS)
    original = TinyCTC()
    for waveform in tones():
        with torch.no_grad():
            torch.testing.assert_close(compressed.logits(waveform), dense.logits(waveform), rtol=1e-5, atol=1e-5)
            assert not torch.allclose(compressed.logits(waveform), original.logits(waveform), atol=0.1)
    assert compressed.transcribe(tones()) == dense.transcribe(tones())
    assert len(set(compressed.transcribe(tones()))) == 3


def test_the_same_for_groups_stacks_and_cells():
    model = Everything().eval()
    ranks = {"embedding": 4, "encoder": 2, "stack": 3, "lstm_cell": 1, "gru_cell": 2}
    compressed, dense = put_back(model, ranks)
    units = torch.arange(30).view(3, 10) % 20
    with torch.no_grad():
        torch.testing.assert_close(compressed(units), dense(units), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ranks", [{}, {"front": 32, "gru": 32, "hidden": 24, "output": 29}, {"front": 28}])
def test_full_rank_and_above_break_even_change_nothing(ranks):
    model = TinyCTC()
    compressed = compress(model, ranks)
    assert type(compressed) is TinyCTC
    assert compressed is not model
    assert ranks_of(compressed) == {}
    for waveform in tones():
        assert torch.equal(compressed.logits(waveform), model.logits(waveform))


def test_each_matrix_has_its_own_break_even():
    # gru.weight_ih_l0 is 72 x 32 (break-even 22), gru.weight_hh_l0 72 x 24 (17).
    compressed = compress(TinyCTC(), {"gru": 20})
    assert ranks_of(compressed) == {"gru.weight_ih_l0": 20}
    assert torch.equal(compressed.gru.weight_hh_l0, TinyCTC().gru.weight_hh_l0)


def test_tied_matrices_share_their_factors():
    model = Everything().eval()
    compressed = compress(model, {"embedding": 4})
    assert ranks_of(compressed) == {"embedding.weight": 4}
    for each in compressed, copy.deepcopy(compressed), pickle.loads(pickle.dumps(compressed)), compressed.double():
        assert each.output.weight_u is each.embedding.weight_u
        assert each.output.weight_v is each.embedding.weight_v
        assert compressed_parameters(model, {"embedding": 4}) == count_parameters(each)
    assert count_parameters(model) - count_parameters(compressed) == 20 * 12 - 4 * (20 + 12)


def test_a_module_used_twice_is_replaced_once():
    class Twice(Everything):
        def __init__(self):
            super().__init__()
            self.again = self.gru_cell

    compressed = compress(Twice(), {"gru_cell": 2})
    assert compressed.again is compressed.gru_cell
    assert ranks_of(compressed) == {"gru_cell.weight_ih": 2, "gru_cell.weight_hh": 2}


def test_the_original_stays_as_it_is_and_lends_its_memory():
    model = Everything().eval()
    before = copy.deepcopy(model.state_dict())
    compressed = compress(model, {"stack": 3, "gru_cell": 2})
    assert compressed.norm.weight.data_ptr() == model.norm.weight.data_ptr()
    assert compressed.output.weight is compressed.embedding.weight
    assert compressed.ahead.bias_ih_l0.data_ptr() == model.ahead.bias_ih_l0.data_ptr()
    # Neither the mode, nor a conversion, nor a gradient, nor a new attribute reaches the original.
    compressed.train().double()
    compressed(torch.zeros(2, 3, dtype=torch.long)).sum().backward()
    compressed.norm.bias = nn.Parameter(torch.ones(24))
    compressed.ahead.weight_ih_l0 = nn.Parameter(torch.ones(48, 12))
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert isinstance(model.stack, nn.LSTM)
    after = model.state_dict()
    assert list(after) == list(before)
    torch.testing.assert_close(dict(after), dict(before), rtol=0, atol=0)
    assert torch.equal(model.ahead(torch.ones(1, 12))[0], copy.deepcopy(model).ahead(torch.ones(1, 12))[0])


def test_an_uncompressed_lstm_of_a_compressed_model_uses_its_own_parameters():
    model = Everything().eval()
    compressed = compress(model, {"stack": 3})
    units = torch.arange(30).view(3, 10) % 20
    with torch.no_grad():
        before = compressed(units)
        compressed.ahead.weight_hh_l0 = nn.Parameter(torch.zeros(48, 12))
        assert not torch.equal(compressed(units), before)


def test_a_prepared_factorisation_is_used():
    model = TinyCTC()
    svd = SVD(model)
    first, second = compress(model, RANKS, svd), compress(model, RANKS)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_gradients_reach_the_factors():
    compressed = copy.deepcopy(compress(TinyCTC(), RANKS))
    compressed.logits(tones(1)[0]).square().sum().backward()
    for name in ranks_of(compressed):
        for suffix in "uv":
            assert compressed.get_parameter(f"{name}_{suffix}").grad.any()


def test_bad_requests():
    model = TinyCTC()
    with pytest.raises(ValueError, match="compressed already"):
        compress(compress(model, RANKS), RANKS)
    with pytest.raises(ValueError, match="'nothing'"):
        compress(model, {"nothing": 3})
    with pytest.raises(ValueError, match=r"'front'.* 1\.\.32, got 33"):
        compress(model, {"front": 33})
    for name in "front", "nothing.weight", "weight":
        with pytest.raises(ValueError, match="does not belong to a module"):
            replace_matrices(model, {name: SVD(model).factors("front.weight", 2)})
    with pytest.raises(ValueError, match=r"weight: factors \(32, 2\) and \(2, 200\)"):
        replace_matrices(model, {"hidden.weight": SVD(model).factors("front.weight", 2)})


def test_parameter_counts_by_hand():
    # Conv 32*40*5 + 32; GRU 72*32 + 72*24 + 2*72; Linear 32*24 + 32; output 29*32 + 29. The auxiliary head is not
    # counted.
    model = TinyCTC()
    dense = 6432 + 4176 + 800 + 957
    assert count_parameters(model) == compressed_parameters(model, {}) == dense
    # front 9 * 232, gru 5 * 104 + 5 * 96, output 3 * 61.
    compressed = 9 * 232 + 32 + 5 * 104 + 5 * 96 + 144 + 800 + 3 * 61 + 29
    assert count_parameters(compress(model, RANKS)) == compressed_parameters(model, RANKS) == compressed
    assert compressed_parameters(compress(model, RANKS), {}) == dense


def test_tied_parameters_and_buffers_count_once():
    # Units 12: embedding (tied to the output) 240; two LSTMs 48*24 + 96; batch norm 48 and its statistics 48; stack
    # 4 * (48*36 + 96); LSTM cell 48*36 + 96; GRU cell 36*24; LSTM with projection 48*15 + 96 + 36; grouped
    # convolution 12*18 + 12; narrow 13; output bias 20.
    expected = 240 + 2 * 1248 + 96 + 4 * 1824 + 1824 + 864 + 852 + 228 + 13 + 20
    assert count_parameters(Everything()) == expected
    assert "embedding.weight" in inference_tensors(Everything())
    assert "output.weight" not in inference_tensors(Everything())


@given(st.fixed_dictionaries({}, optional={layer.name: st.integers(1, layer.max_rank) for layer in TinyCTC().layers}))
def test_counts_agree_with_the_built_model(ranks):
    model = TinyCTC()
    compressed = compress(model, ranks, SVD_OF_TINY)
    built = sum(parameter.numel() for name, parameter in compressed.named_parameters() if "auxiliary" not in name)
    assert compressed_parameters(model, ranks) == count_parameters(compressed) == built


SVD_OF_TINY = SVD(TinyCTC())


def test_multiply_adds_by_hand():
    model = TinyCTC()
    # 16000 samples: 1 + (16000 - 320) // 160 = 99 frames, 50 after the convolution's stride; 100 samples: 1 and 1.
    workload = model.workload([16000, 100], ["one", "two"])
    assert set(workload.positions.values()) == {51}
    assert model.logits(torch.zeros(16000)).shape[0] == 50
    assert count_macs(model.layers, {}, workload) == 51 * (6400 + 72 * 56 + 768 + 928)
    workload = Workload(workload.positions, other_macs=7)
    assert count_macs(model.layers, RANKS, workload) == 7 + 51 * (9 * 232 + 5 * 200 + 768 + 3 * 61)
    with pytest.raises(ValueError, match=r"front\.weight"):
        count_macs(model.layers, {}, Workload({}, 0))


def test_looking_up_costs_a_product_where_the_embedding_is_factored():
    (embedding,) = find_layers(nn.ModuleDict({"words": nn.Embedding(20, 12)}))
    looked_up = Workload({}, 5, {"words.weight": 7})
    assert count_macs([embedding], {}, looked_up) == 5
    assert count_macs([embedding], {"words": 3}, looked_up) == 5 + 7 * 3 * 12
    tied = Workload({"words.weight": 2}, 0, {"words.weight": 7})
    assert count_macs([embedding], {}, tied) == 2 * 240
    assert count_macs([embedding], {"words": 3}, tied) == 2 * 3 * 32 + 7 * 3 * 12


def test_the_encoder_is_counted_by_itself():
    model = TinyCTC()
    with pytest.raises(ValueError, match="TinyCTC has no encoder_path"):
        encoder_parameters(model)
    model.encoder_path = "gru"
    assert encoder_parameters(model) == 72 * 32 + 72 * 24 + 2 * 72
    assert encoder_parameters(compress(model, {"gru": 5, "hidden": 2})) == 5 * (104 + 96) + 2 * 72


@pytest.mark.parametrize("ranks", [None, "hidden", 5])
def test_ranks_that_are_no_mapping(ranks):
    with pytest.raises(ValueError, match="ranks must be a mapping"):
        compress(TinyCTC(), ranks)
