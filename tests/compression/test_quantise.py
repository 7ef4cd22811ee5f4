from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from shrinkml_env.compression import (
    compress,
    count_parameters,
    decompress,
    int8_scales,
    load_compressed,
    quantise,
    ranks_of,
    round_to_storage,
    save_compressed,
)
from tests.helpers.files import put_tensor
from tests.helpers.models import Everything, TinyCTC, tones
from tests.helpers.processes import python

pytest.importorskip("torchao")

RANKS = {"front": 9, "gru": 12, "output": 7}
UNITS = torch.arange(30).view(3, 10) % 20


@pytest.fixture(scope="module")
def quantised() -> TinyCTC:
    return quantise(compress(TinyCTC(seed=4), RANKS))


@pytest.fixture
def saved(quantised: TinyCTC, tmp_path: Path) -> Path:
    save_compressed(quantised, tmp_path / "model")
    return tmp_path / "model"


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 20), st.floats(-25, 8), st.floats(0, 3))
def test_no_value_moves_by_more_than_half_a_scale(seed, zero_row, exponent, spread):
    model = Everything()
    model.storage_dtype = torch.float32
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight = torch.randn(20, 12, generator=generator) * 10 ** (exponent / 4)
        weight *= 10 ** (spread * torch.randn(20, 1, generator=generator))
        weight[zero_row:] = 0
        model.output.weight.copy_(weight)  # Which is the embedding's, too.
    found = quantise(model)
    scales = weight.double().abs().amax(1, keepdim=True) / 127
    values = found.embedding.weight.detach().double()
    # float32 rounds the quotient, at most 127, and the product.
    assert ((values - weight).abs() <= scales * (0.5 + 127 * 2**-22)).all()
    numbers = values / scales.clamp(min=1e-300)
    assert (numbers - numbers.round()).abs().max() < 1e-4
    assert numbers.abs().max() < 127.001
    assert found.output.weight is found.embedding.weight
    assert torch.equal(model.output.weight, weight)
    assert same(quantise(found), found)


def test_what_is_quantised(quantised):
    matrices = {
        "front.weight_u", "front.weight_v", "gru.weight_ih_l0_u", "gru.weight_ih_l0_v", "gru.weight_hh_l0_u",
        "gru.weight_hh_l0_v", "hidden.weight", "output.weight_u", "output.weight_v",
    }  # fmt: skip
    assert set(int8_scales(quantised)) == matrices
    original = compress(TinyCTC(seed=4), RANKS)
    assert ranks_of(quantised) == ranks_of(original)
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, quantised.state_dict()[name]) == (name not in matrices)


def test_a_matrix_that_would_not_become_smaller_stays():
    model = compress(TinyCTC(), {"output": 4})  # U: (27, 4) in float16, 8 bytes a row; 4 + 4 in int8.
    assert "output.weight_u" not in int8_scales(quantise(model))
    assert "output.weight_v" in int8_scales(quantise(model))


def test_a_second_round_changes_nothing(quantised, tmp_path):
    again = quantise(quantised)
    assert same(again, quantised)
    save_compressed(quantised, tmp_path / "one")
    save_compressed(quantise(load_compressed(tmp_path / "one")), tmp_path / "two")
    for name in "config.json", "model.safetensors":
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_rounding_keeps_what_is_quantised(quantised):
    model = quantise(quantised)
    round_to_storage(model)
    assert same(model, quantised)


def test_values_off_the_grid_are_not_saved_until_rounded_or_quantised(tmp_path):
    model = quantise(TinyCTC())
    row = model.hidden.weight[3]
    with torch.no_grad():
        row += 0.3 * int8_scales(model)["hidden.weight"][3]
        row[0] = 0
    with pytest.raises(ValueError, match=r"'hidden\.weight'.*int8.*round_to_storage"):
        save_compressed(model, tmp_path)
    again = quantise(model)
    save_compressed(again, tmp_path)
    assert again.hidden.weight[3, 0] == 0
    round_to_storage(model)
    save_compressed(model, tmp_path)
    with torch.no_grad():
        row *= 2
    with pytest.raises(ValueError, match=r"'hidden\.weight' holds NaN, infinity or values beyond the range of .*int8"):
        round_to_storage(model)


@pytest.mark.parametrize("ranks", [{}, RANKS])
def test_round_trip_is_exact(tmp_path, ranks):
    model = quantise(compress(TinyCTC(seed=4), ranks))
    save_compressed(model, tmp_path)
    loaded = load_compressed(tmp_path)
    assert ranks_of(loaded) == ranks_of(model)
    assert loaded.storage_dtype == torch.float16
    assert list(int8_scales(loaded)) == list(int8_scales(model))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    with torch.inference_mode():
        for waveform in tones():
            assert torch.equal(loaded.logits(waveform), model.logits(waveform))
    assert loaded.transcribe(tones()) == model.transcribe(tones())


def test_round_trip_of_stacks_cells_ties_and_buffers(tmp_path):
    model = Everything()
    model(UNITS)
    ranks = {"embedding": 4, "encoder": 2, "stack": 3, "lstm_cell": 3, "gru_cell": 3}
    quantised = quantise(compress(model.eval(), ranks))
    save_compressed(quantised, tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {"embedding.weight_u", "embedding.weight_u.scale", "projection.weight_hr_l0.scale"} <= names
    assert not any(name.startswith("output.weight") for name in names)
    loaded = load_compressed(tmp_path)
    with torch.inference_mode():
        assert torch.equal(loaded(UNITS), quantised(UNITS))


def test_the_file_holds_a_byte_for_each_number_of_a_matrix(quantised, saved):
    tensors = load_file(saved / "model.safetensors")
    scales = int8_scales(quantised)
    for name in scales:
        assert tensors[name].dtype == torch.int8
        assert tensors[f"{name}.scale"].dtype == torch.float32
        assert tensors[f"{name}.scale"].shape == (len(tensors[name]),)
    vectors = set(tensors) - set(scales) - {f"{name}.scale" for name in scales}
    assert vectors == {"front.bias", "gru.bias_ih_l0", "gru.bias_hh_l0", "hidden.bias", "output.bias"}
    assert {tensors[name].dtype for name in vectors} == {torch.float16}
    numbers = sum(tensor.numel() for name, tensor in tensors.items() if not name.endswith(".scale"))
    assert numbers == count_parameters(quantised) == count_parameters(compress(TinyCTC(), RANKS))
    config = json.loads((saved / "config.json").read_text())
    assert config["format_version"] == 2
    assert config["storage_dtype"] == "float16"
    assert config["int8"] == list(scales)


@pytest.mark.slow
def test_loading_needs_no_torchao(saved):
    code = (
        "import sys; sys.modules['torchao'] = None; import tests.helpers.models; from shrinkml_env import"
        f" load_compressed, quantise; model = load_compressed({str(saved)!r}); quantise(model)"
    )
    found = python("-c", code)
    assert found.returncode == 1
    assert "ImportError: quantisation needs the package torchao: pip install" in found.stderr


def test_a_quantised_model_is_not_compressed_further(quantised):
    with pytest.raises(ValueError, match="this model is quantised: compress the one that it was made from"):
        compress(quantise(TinyCTC()), RANKS)
    dense = decompress(quantised)
    assert not int8_scales(dense)
    compress(dense, RANKS)


def test_the_model_stays_as_it_is_and_shares_no_memory():
    model = TinyCTC(seed=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        quantise(model).output.bias.fill_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not int8_scales(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value):
    model = TinyCTC()
    with torch.no_grad():
        model.hidden.weight[1, 1] = value
    with pytest.raises(ValueError, match=r"'hidden\.weight' holds NaN or infinity"):
        quantise(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"int8": ["nothing"]}, "'int8': 'nothing' is not a matrix"),
        ({"int8": [3]}, "'int8': 3 is not a matrix"),
        ({"int8": [["hidden.weight"]]}, "'int8': .* is not a matrix"),
        ({"int8": ["hidden.bias"]}, r"'int8': 'hidden\.bias' is not a matrix"),
        ({"int8": ["auxiliary.weight"]}, r"'int8': 'auxiliary\.weight' is not a matrix"),
        ({"int8": ["hidden.weight", "hidden.weight"]}, "named twice"),
        ({"int8": {}}, "'int8' must be of type list"),
        ({"format_version": 1}, "unknown key 'int8'"),
    ],
)
def test_malformed_config(saved, change, message):
    file = saved / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        load_compressed(saved)


def test_missing_key(saved):
    file = saved / "config.json"
    config = json.loads(file.read_text())
    del config["int8"]
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json: key 'int8' is missing"):
        load_compressed(saved)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("hidden.weight.scale", None, r"'hidden\.weight\.scale' is missing"),
        ("hidden.bias.scale", torch.ones(32), r"unexpected tensor 'hidden\.bias\.scale'"),
        ("hidden.weight.scale", torch.ones(31), r"'hidden\.weight\.scale' must be torch\.float32 \(32,\), got"),
        ("hidden.weight.scale", torch.ones(32).half(), r"must be torch\.float32 \(32,\), got torch\.float16"),
        ("hidden.weight.scale", torch.zeros(32), r"'hidden\.weight\.scale' must hold numbers above 0"),
        ("hidden.weight.scale", torch.full((32,), float("nan")), r"'hidden\.weight\.scale' holds NaN or infinity"),
        ("hidden.weight", torch.zeros(32, 24).half(), r"'hidden\.weight' must be torch\.int8 .* got torch\.float16"),
        ("hidden.weight", torch.full((32, 24), -128, dtype=torch.int8), r"must hold numbers in -127\.\.127"),
    ],
)
def test_tensors_that_do_not_fit(saved, name, tensor, message):
    put_tensor(saved, name, tensor)
    with pytest.raises(ValueError, match=rf"model\.safetensors: .*{message}"):
        load_compressed(saved)


@pytest.mark.parametrize("size", [0, 100, -1])
def test_truncated_tensors(saved, size):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a complete safetensors file"):
        load_compressed(saved)
