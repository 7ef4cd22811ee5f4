"""The command that exports, on a search's run and on a saved model."""

import pytest

from experiments.common.search_run import search
from experiments.export import export
from shrinkml_env import load_compressed
from tests.helpers.models import TinyCTC, tones
from tests.helpers.processes import python


@pytest.fixture
def run(configure):
    return search(configure("agent=random", "budget=2", "finalists=1"), "title")


def test_a_run_and_a_models_folder_are_exported(run, tmp_path, capsys):
    first = export(run, "safetensors")
    assert first == run / "export" / "safetensors"
    printed = capsys.readouterr().out
    assert "The same transcripts of 4 of 4 utterances." in printed
    assert str(first / "model.safetensors") in printed
    proxy = {"root": str(tmp_path), "subset": "proxy", "limit": 2}
    second = export(run / "compressed", "safetensors", tmp_path / "out", proxy)
    assert "2 of 2 utterances" in capsys.readouterr().out
    expected = load_compressed(run / "compressed").transcribe(tones())
    for folder in first, second:
        assert load_compressed(folder).transcribe(tones()) == expected


@pytest.mark.slow
def test_what_is_no_run_is_an_error_of_one_line(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        export(tmp_path / "nowhere", "onnx")
    assert TinyCTC.architecture == "tiny_ctc"
    command = ["-m", "experiments.export", "imports=[tests.helpers.models]", "format=onnx"]
    found = python(*command)
    assert found.returncode == 2
    assert found.stderr.startswith("run must be given: run=...")
    found = python(*command, f"run={run / 'compressed'}")
    assert found.returncode == 2
    assert found.stderr.strip().splitlines()[-1].startswith("only LAS models can be exported")
    assert "Traceback" not in found.stderr
