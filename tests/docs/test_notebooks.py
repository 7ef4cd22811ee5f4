"""The notebooks run as they stand, and hold the outputs of one run, from top to bottom."""

import shutil

import pytest
from matplotlib import pyplot as plt

from shrinkml_env import count_parameters, encoder_parameters
from tests.helpers.pages import NOTEBOOKS, ROOT, code_cells

pytestmark = [pytest.mark.docs, pytest.mark.slow]

FIRST, WHISPERS = "docs/notebooks/first-search.ipynb", "docs/notebooks/compress-whisper.ipynb"

COUNTS = (count_parameters, encoder_parameters)


def run(notebook, folder, monkeypatch, **replaced):
    """Run the code of a notebook in a folder, with other texts in it, each of which occurs once."""
    code = "\n\n".join(cell["source"] for cell in code_cells(notebook))
    for old, new in replaced.items():
        assert code.count(old) == 1
        code = code.replace(old, new)
    monkeypatch.chdir(folder)
    names = {}
    try:
        exec(compile(code, notebook, "exec"), names)
    finally:
        plt.close("all")
    return names


def test_all_are_tested():
    assert sorted([FIRST, WHISPERS]) == NOTEBOOKS


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_outputs_are_those_of_one_run(notebook):
    code = code_cells(notebook)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"display_data", "execute_result", "stream"}
    assert all(output["name"] == "stdout" for output in outputs if output["output_type"] == "stream")
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (ROOT / notebook).stat().st_size < 300_000


@pytest.mark.usefixtures("few_utterances")
def test_the_first_search(tmp_path, monkeypatch, capsys):
    """At one size, with few evaluations, on few utterances."""
    names = run(FIRST, tmp_path, monkeypatch, **{'{"budget": 40}': '{"budget": 2}', "(0.6, 0.4, 0.3)": "(0.4,)"})
    (result,) = names["results"].values()
    assert result.evaluations == 2
    assert result.size_ratio <= 0.4
    assert (tmp_path / "outputs" / "first-search" / "model.safetensors").exists()
    assert capsys.readouterr().out.count("recognised: ") == 3


def test_compressing_whisper(tmp_path, corpus, monkeypatch, capsys):
    """A small one, with random weights."""
    pytest.importorskip("transformers")
    from tests.helpers.huggingface_models import make_whisper

    for name in ("whisper", "run", "speech"):
        (tmp_path / name).mkdir()
    for subset in ("dev-clean", "test-clean"):
        shutil.copytree(corpus.folder, tmp_path / "speech" / subset)
    monkeypatch.setenv("WHISPER", str(make_whisper(tmp_path / "whisper")))
    monkeypatch.setenv("LIBRISPEECH", str(tmp_path / "speech"))
    # It has one speaker, and an encoder that ranks of 1 make smaller by a seventh.
    fit = {"dev[:-8], dev[-8:]": "dev[:-2], dev[-2:]", "(0.9, 0.8, 0.7, 0.6)": "(0.95, 0.9)", "make(0.8)": "make(0.9)"}
    names = run(WHISPERS, tmp_path / "run", monkeypatch, **fit)
    assert capsys.readouterr().out.count("recognised: ") == 3
    # Nothing but the encoder is smaller.
    before, after = ([count(names[name]) for count in COUNTS] for name in ("model", "loaded"))
    assert before[0] - after[0] == before[1] - after[1] > 0
    assert after[0] == names["measured"][0.9].params
    for size, evaluation in names["measured"].items():
        assert before[0] - evaluation.params >= (1 - size) * before[1]
