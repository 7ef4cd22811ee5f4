from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shrinkml_env.compression import (
    compress,
    count_parameters,
    exact_storage_dtype,
    load_compressed,
    ranks_of,
    register_architecture,
    round_to_storage,
    save_compressed,
)
from tests.helpers.files import put_tensor
from tests.helpers.models import Everything, TinyCTC, tones

RANKS = {"front": 9, "gru": 5, "output": 3}
UNITS = torch.arange(30).view(3, 10) % 20


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_compressed(compress(TinyCTC(seed=4), RANKS), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("ranks", [{}, RANKS])
def test_round_trip_is_exact(tmp_path, ranks):
    model = compress(TinyCTC(seed=4), ranks)
    save_compressed(model, tmp_path)
    state = torch.random.get_rng_state()
    loaded = load_compressed(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(loaded, TinyCTC)
    assert ranks_of(loaded) == ranks_of(model)
    assert loaded.layers == model.layers
    assert not any(module.training for module in loaded.modules())
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    with torch.inference_mode():
        for waveform in tones():
            assert torch.equal(loaded.logits(waveform), model.logits(waveform))
    assert loaded.transcribe(tones()) == model.transcribe(tones())


def test_round_trip_of_stacks_cells_ties_and_buffers(tmp_path):
    model = Everything()
    model(UNITS)  # In training mode: the batch norm's statistics move.
    model.eval()
    compressed = compress(model, {"embedding": 4, "encoder": 2, "stack": 3, "lstm_cell": 1, "gru_cell": 2})
    save_compressed(compressed, tmp_path)
    names = list(load_file(tmp_path / "model.safetensors"))
    assert "embedding.weight_u" in names
    assert not any(name.startswith("output.weight") for name in names)
    loaded = load_compressed(tmp_path)
    with torch.inference_mode():
        assert torch.equal(loaded(UNITS), compressed(UNITS))
    assert loaded.output.weight_u is loaded.embedding.weight_u


def test_the_smallest_exact_format():
    third, tiny = torch.tensor([1 / 3]), torch.tensor([2.0**-120])
    assert exact_storage_dtype([]) == exact_storage_dtype([third.half().float(), tiny * 0]) == torch.float16
    assert exact_storage_dtype([third.bfloat16().float(), tiny]) == torch.bfloat16
    assert exact_storage_dtype([tiny, third.half().float()]) == torch.float32


def test_the_file_holds_what_is_counted_and_is_smaller(tmp_path):
    model = TinyCTC()
    sizes = {}
    for name, ranks in ("dense", {}), ("compressed", RANKS):
        compressed = compress(model, ranks)
        save_compressed(compressed, tmp_path / name)
        tensors = load_file(tmp_path / name / "model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
        assert not any(tensor_name.startswith("auxiliary") for tensor_name in tensors)
        assert sum(tensor.numel() for tensor in tensors.values()) == count_parameters(compressed)
        sizes[name] = (tmp_path / name / "model.safetensors").stat().st_size
        assert 0 < sizes[name] - 2 * count_parameters(compressed) < 2000
    assert sizes["compressed"] < 0.6 * sizes["dense"]


def test_config_records_the_ranks(saved):
    assert json.loads((saved / "config.json").read_text()) == {
        "format_version": 1,
        "architecture": "tiny_ctc",
        "config": {"units": 24, "seed": 4},
        "ranks": {"front.weight": 9, "gru.weight_ih_l0": 5, "gru.weight_hh_l0": 5, "output.weight": 3},
        "storage_dtype": "float16",
    }
    assert sorted(file.name for file in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_saving_again_replaces(saved):
    save_compressed(TinyCTC(seed=5), saved)
    assert load_compressed(saved).seed == 5


def test_a_killed_save_leaves_no_model(saved, monkeypatch):
    replace = Path.replace

    def die(self: Path, target: Path) -> Path:
        if target.name == "config.json":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save_compressed(TinyCTC(seed=5), saved)
    assert [file.name for file in saved.iterdir()] == ["model.safetensors"]
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_compressed(saved)


def test_values_that_the_format_lacks_are_refused_until_rounded(tmp_path):
    model = TinyCTC()
    with torch.no_grad():
        model.hidden.weight[0, 0] = 0.1
    with pytest.raises(ValueError, match=r"'hidden\.weight'.*float16.*round_to_storage"):
        save_compressed(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    round_to_storage(model)
    save_compressed(model, tmp_path)
    assert load_compressed(tmp_path).hidden.weight[0, 0] == torch.tensor(0.1).half()


def test_architectures_must_be_registered(tmp_path):
    class Other(TinyCTC):
        pass

    with pytest.raises(ValueError, match="Other is not registered"):
        save_compressed(Other(), tmp_path)
    with pytest.raises(ValueError, match=r"'tiny_ctc' is registered already: tests\.helpers\.models\.TinyCTC"):
        register_architecture("tiny_ctc")(Other)
    assert Other.architecture == "tiny_ctc"
    assert register_architecture("tiny_ctc")(TinyCTC) is TinyCTC


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_compressed(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 4}, "'format_version' must be 1, 2 or 3, got 4"),
        ({"format_version": None}, "'format_version' must be 1, 2 or 3, got None"),
        ({"format_version": [1]}, r"'format_version' must be 1, 2 or 3, got \[1\]"),
        ({"int8": []}, "unknown key 'int8'"),
        ({"architecture": "nothing"}, "unknown architecture 'nothing'"),
        ({"architecture": 3}, "'architecture' must be of type str"),
        ({"storage_dtype": "int8"}, "unknown storage_dtype 'int8'"),
        ({"config": {"unitz": 3}}, "'config' does not fit 'tiny_ctc'"),
        ({"config": {"units": -3}}, "'config' does not fit 'tiny_ctc'"),
        ({"config": []}, "'config' must be of type dict"),
        ({"ranks": {"front.weight": 99}}, r"'ranks': .*'front\.weight'"),
        ({"ranks": {"front.weight": 0}}, r"'ranks': .*'front\.weight'"),
        ({"ranks": {"front.weight": "many"}}, "'ranks'"),
        ({"ranks": {"front.weight": [3]}}, "'ranks'"),
        ({"ranks": {"front.weight": float("inf")}}, "'ranks'"),
        ({"ranks": {"front.weight": 32}}, r"'ranks': 'front\.weight'"),
        ({"ranks": {"front": 3}}, "'ranks': 'front' is not a matrix"),
        ({"ranks": {"nothing": 3}}, "'ranks': .*'nothing'"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_malformed_config(saved, change, message):
    file = saved / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        load_compressed(saved)


@pytest.mark.parametrize("key", ["format_version", "architecture", "config", "ranks", "storage_dtype"])
def test_missing_key(saved, key):
    file = saved / "config.json"
    config = json.loads(file.read_text())
    del config[key]
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json: key '{key}'"):
        load_compressed(saved)


@pytest.mark.parametrize(
    ("content", "message"), [(b'{"a', "not JSON"), (b"\xff", "not JSON"), (b"[]", "not a JSON obj")]
)
def test_broken_json(saved, content, message):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json: {message}"):
        load_compressed(saved)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_truncated_tensors(saved, size):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a complete safetensors file"):
        load_compressed(saved)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("hidden.weight", None, r"'hidden\.weight' is missing"),
        ("front.weight_u", None, r"'front\.weight_u' is missing"),
        ("front.weight", torch.zeros(32, 40, 5).half(), r"unexpected tensor 'front\.weight'"),
        (
            "front.weight_u",
            torch.zeros(32, 8).half(),
            r"'front\.weight_u' must be torch\.float16 \(32, 9\), got .*\(32, 8\)",
        ),
        ("hidden.weight", torch.zeros(32, 24), r"'hidden\.weight' must be torch\.float16 .* got torch\.float32"),
    ],
)
def test_tensors_that_do_not_fit(saved, name, tensor, message):
    put_tensor(saved, name, tensor)
    with pytest.raises(ValueError, match=rf"model\.safetensors: .*{message}"):
        load_compressed(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_hold_no_numbers(saved, value):
    put_tensor(saved, "front.weight_u", torch.full((32, 9), value).half())
    with pytest.raises(ValueError, match=r"model\.safetensors: tensor 'front\.weight_u' holds NaN or infinity"):
        load_compressed(saved)


def test_ranks_that_do_not_match_the_tensors(saved):
    file = saved / "config.json"
    config = json.loads(file.read_text())
    config["ranks"]["front.weight"] = 8
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model\.safetensors: tensor 'front\.weight_u' must be"):
        load_compressed(saved)


@pytest.mark.parametrize("value", [70_000.0, float("nan")])
def test_what_the_format_cannot_hold_is_not_rounded(value):
    model = TinyCTC()
    with torch.no_grad():
        model.output.bias[2] = value
    with pytest.raises(ValueError, match=r"output\.bias.*beyond the range of torch\.float16"):
        round_to_storage(model)


def test_a_model_is_not_saved_onto_a_file(tmp_path):
    path = tmp_path / "model"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="model is a file: a model is saved to a folder, give the name of one"):
        save_compressed(TinyCTC(), path)
    assert path.read_text() == "mine"


def test_a_model_is_not_saved_to_no_name():
    with pytest.raises(ValueError, match="path is empty"):
        save_compressed(TinyCTC(), "")
