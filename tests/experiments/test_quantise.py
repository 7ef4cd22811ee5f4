"""The command that quantises, on saved models and runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize

from experiments.common.finetuning import load_las
from experiments.export import export
from experiments.quantise import make
from experiments.validate import validate
from shrinkml_env import compress, load_compressed, load_model, quantise, save_compressed
from shrinkml_env.compression import int8_scales
from tests.helpers.models import TinyCTC, tones
from tests.helpers.processes import python
from tests.helpers.workplace import make_workplace

pytest.importorskip("torchao")


@pytest.fixture
def configure(tmp_path):
    """Composes the command's config, with the sets of a workplace."""
    _, _, *sets = make_workplace(tmp_path, TinyCTC())

    def compose_quantise(model: Path):
        with initialize(version_base="1.3", config_path="../../conf"):
            return compose("quantise", [f"model={model}", f"outputs={tmp_path / 'outputs'}", *sets])

    return compose_quantise


def test_a_saved_model(configure, tmp_path, capsys):
    original = compress(TinyCTC(), {"gru": 12})
    save_compressed(original, tmp_path / "seed")
    folder = make(configure(tmp_path / "seed"))
    expected = quantise(original).transcribe(tones())
    assert load_compressed(folder / "compressed").transcribe(tones()) == expected
    record = json.loads((folder / "best.json").read_text())
    files = {name: (folder / name / "model.safetensors").stat().st_size for name in ("original", "compressed")}
    assert record["file_bytes"] == files
    assert files["compressed"] < files["original"]
    assert record["size_ratio"] == 1
    assert validate(folder) == []
    low, value, high = (record["wer_increase"][key] for key in ("low", "value", "high"))
    assert low <= value <= high
    assert value == pytest.approx(record["sets"]["test"]["wer_after"] - record["sets"]["test"]["wer_before"])
    printed = capsys.readouterr().out
    assert f"{files['compressed']:,}" in printed
    assert str(folder / "compressed") in printed
    assert make(configure(tmp_path / "seed")) == folder


def test_a_run_and_what_is_quantised_already(configure, tmp_path):
    save_compressed(TinyCTC(), tmp_path / "run" / "compressed")
    folder = make(configure(tmp_path / "run"))
    with pytest.raises(ValueError, match="is quantised already"):
        make(configure(folder))
    exported = load_compressed(export(folder, "safetensors"))
    assert list(int8_scales(exported)) == list(int8_scales(load_compressed(folder / "compressed")))


@pytest.mark.slow
def test_errors_have_one_line(tmp_path):
    command = ["-m", "experiments.quantise", f"outputs={tmp_path / 'outputs'}"]
    found = python(*command, "model=nowhere")
    assert found.returncode == 2
    assert found.stderr.startswith("'nowhere' is neither a shipped model")
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


def test_a_quantised_model_is_not_trained(tmp_path):
    save_compressed(quantise(load_model("las_small")), tmp_path / "int8")
    with pytest.raises(ValueError, match="int8 is quantised: train the model that it was made from"):
        load_las(str(tmp_path / "int8"))
