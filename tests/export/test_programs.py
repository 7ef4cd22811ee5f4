"""LAS models as torch.export programs and ONNX graphs."""

import copy
import json
import re
import shutil
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version

from shrinkml_env import Utterance, compress, count_parameters
from shrinkml_env.asr import LAS, Decoding, LASConfig, Tokenizer
from shrinkml_env.compression import ActivationAwareSVD, quantise, round_to_storage
from shrinkml_env.export import FORMATS, Format, check, export_model, las
from shrinkml_env.export.programs import write_companions
from shrinkml_env.export.transcribe import Transcriber
from tests.helpers.models import TinyCTC, tones

pytestmark = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.13"), reason="the extra export needs torch 2.13"
)

TEXTS = ["set an alarm for seven thirty", "call martin's sister", "play the quick brown fox", "jazz vow"] * 10
WAYS = "encoder.layers.0.lstm.forward_lstm", "encoder.layers.0.lstm.backward_lstm"
RANKS = {
    f"{WAYS[0]}.weight_ih_l0": 5, f"{WAYS[0]}.weight_hh_l0": 4, f"{WAYS[1]}.weight_hh_l0": 6,
    "encoder.layers.1.lstm.forward_lstm.weight_hh_l0": 5,
    "encoder.2": 6, "decoder.lstm": 7, "decoder.attention.query": 3, "decoder.output": 5,
}  # fmt: skip
"""Directions of different ranks, one of them dense, and layers whose matrices share theirs."""


@pytest.fixture(scope="module")
def original():
    """Hears something: its weights are larger than a fresh model's."""
    torch.manual_seed(3)
    sizes = LASConfig(
        encoder_units=16, time_reduction=(3, 2, 1), attention_units=12, embedding_units=6, decoder_units=14,
        readout_units=9,
    )  # fmt: skip
    model = LAS(sizes, Tokenizer.train(TEXTS, 60), Decoding()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(8 if "output" in name else 4)
    round_to_storage(model)
    return model


@pytest.fixture(scope="module")
def compressed(original):
    return compress(original, RANKS)


@pytest.fixture(scope="module")
def utterances():
    return [Utterance(str(index), "", waveform, "") for index, waveform in enumerate([*tones(4), tones(1)[0][:960]])]


@pytest.fixture(scope="module")
def exported(compressed, utterances, tmp_path_factory):
    """Folders by format; what `export_model` checks is that the transcripts are the model's."""
    folder = tmp_path_factory.mktemp("exported")
    for name in "torch", "onnx":
        if name == "onnx":
            pytest.importorskip("onnxscript")
        export_model(compressed, folder / name, name, utterances)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_pivoting_form_and_shared_right_factors(original, utterances, tmp_path, format):
    """`export_model` checks the transcripts; what is multiplied out is only what has no better form there."""
    if format == "onnx":
        pytest.importorskip("onnxscript")
    speech = [utterance.waveform for utterance in utterances]
    factorisation = ActivationAwareSVD(original, speech, form="pivoting", share_inputs=True)
    ranks = {layer.name: max(1, layer.break_even // 2) for layer in factorisation.layers}
    small = compress(original, ranks, factorisation)
    assert export_model(small, tmp_path / "out", format, utterances) == []
    if format == "torch":
        programs = [las.EncoderProgram(small, las.ScanLSTM), las.DecoderStep(small)]
        held = sum(parameter.numel() for program in programs for parameter in program.parameters())
        # Both biases of an LSTM are one there, and the filters of the features are no parameters of either.
        biases = sum(p.numel() for name, p in small.named_parameters() if ".bias_hh" in name)
        assert held == count_parameters(small) - biases


@pytest.fixture(scope="module", params=["torch", "onnx"])
def transcriber(exported, request):
    return Transcriber(exported / request.param)


def test_the_transcripts_depend_on_what_is_heard(compressed, utterances):
    assert len(set(compressed.transcribe([utterance.waveform for utterance in utterances]))) >= 4


@pytest.mark.parametrize("samples", [257, 4000, 16_001])
def test_features_are_those_of_the_model(original, samples):
    waveform = torch.randn(samples, generator=torch.Generator().manual_seed(samples))
    found = las.Features(original.features)(waveform)
    torch.testing.assert_close(found, original.features.one(waveform), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_scan_computes_what_the_lstm_does(compressed, layer):
    source = compressed.encoder.layers[layer].lstm
    inputs = torch.randn(11, source.forward_lstm.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = source(inputs[None], torch.tensor([11]))[0]
        torch.testing.assert_close(las.ScanLSTM(source)(inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_programs_compute_what_the_model_does(transcriber, compressed, utterances):
    for utterance in utterances[:4]:
        with torch.no_grad():
            states, lengths = compressed.encoder(*compressed.features([utterance.waveform]))
            expected = compressed.decoder.start(states, lengths)
            logits, after = compressed.decoder.step(expected, torch.tensor([5]))
        values, keys = transcriber.encoder(utterance.waveform.numpy())
        np.testing.assert_allclose(values, expected.values[0], atol=2e-3)
        np.testing.assert_allclose(keys, expected.keys[0], atol=2e-3)
        state = [part.numpy() for part in (expected.hidden, expected.cell, expected.context, expected.history)]
        found = transcriber.decoder(np.array([5]), expected.values[0].numpy(), expected.keys[0].numpy(), *state)
        np.testing.assert_allclose(found[0], logits, atol=1e-4)
        for part, wanted in zip(found[1:], (after.hidden, after.cell, after.context, after.history), strict=True):
            np.testing.assert_allclose(part, wanted, atol=1e-5)


def test_the_shortest_waveforms_are_padded(transcriber):
    waveform = tones(1)[0][:960].numpy()
    waveform[100:] = 0
    found = transcriber.units(waveform[:100])
    assert found == transcriber.units(waveform)[: len(found)]  # the shorter one may have fewer units
    assert transcriber.units(waveform[:0])


def test_several_hypotheses_are_steps_of_one_program(transcriber):
    values, keys = transcriber.encoder(tones(1)[0].numpy())
    generator = np.random.default_rng(0)
    sizes = [*transcriber.settings["state"], len(values)]
    state = [generator.random((3, size), np.float32) for size in sizes]
    together = transcriber.decoder(np.array([1, 5, 9]), values, keys, *state)
    for row, unit in enumerate((1, 5, 9)):
        alone = transcriber.decoder(np.array([unit]), values, keys, *(part[row : row + 1] for part in state))
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_allclose(one[row : row + 1], other, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_a_folder_transcribes_by_itself(exported, compressed, tmp_path, name):
    """With the script in it and none of this library, from an audio file."""
    folder = shutil.copytree(exported / name, tmp_path / "anywhere")
    samples = (tones(1)[0].clamp(-1, 1).numpy() * 32_767).astype("<i2")
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())
    script = (
        "import runpy, sys; sys.modules['shrinkml_env'] = None; sys.argv = sys.argv[1:];"
        " runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", script, folder / "transcribe.py", tmp_path / "speech.wav"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert found.strip() == compressed.transcribe([torch.from_numpy(samples.astype(np.float32) / 32_768)])[0]
    assert found.strip()
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((2, 2, 16_000, 4, "NONE", ""))
        file.writeframes(bytes(16))
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode
    assert "speech.wav: 16 kHz, one channel" in found.stderr


def weights_of(folder):
    """Shapes in the models' number format, and the bytes of all weights."""
    onnx = pytest.importorskip("onnx")
    graphs = [onnx.load(folder / f"{name}.onnx").graph for name in ("encoder", "decoder")]
    tensors = [tensor for graph in graphs for tensor in graph.initializer]
    stored = {tuple(tensor.dims) for tensor in tensors if tensor.data_type == onnx.TensorProto.FLOAT16}
    return stored, sum(len(tensor.raw_data) for tensor in tensors)


@pytest.mark.slow
def test_graphs_hold_factors_in_the_models_number_format(original, compressed, exported, utterances, tmp_path):
    shapes, size = weights_of(exported / "onnx")
    assert {(64, 4), (4, 16), (64, 6), (6, 16), (64, 5), (5, 16), (56, 7), (7, 14), (7, 38)} <= shapes
    assert (64, 16) in shapes  # the one direction of encoder.1 that is dense
    assert (56, 14) not in shapes
    export_model(original, tmp_path / "original", "onnx", utterances[:1])
    dense, size_of_original = weights_of(tmp_path / "original")
    assert (56, 14) in dense
    saved = 2 * (count_parameters(original) - count_parameters(compressed))
    assert size_of_original - size == pytest.approx(saved, rel=0.1)


def test_units_spell_what_the_tokenizer_does(original, tmp_path):
    write_companions(original, tmp_path)
    units = json.loads((tmp_path / "recogniser.json").read_text())["units"]
    for text in TEXTS[:4]:
        found = original.tokenizer.encode(text)
        assert " ".join("".join(units[unit] for unit in [original.tokenizer.eos, *found]).split()) == text
    unknown = [found[0], 0, found[1]]
    written = " ".join("".join(units[unit] for unit in unknown).split())
    assert written == original.normalise(original.tokenizer.decode(unknown))


def test_near_ties_are_allowed_and_named(compressed, exported, utterances, monkeypatch):
    units = Transcriber.units

    def another(self, waveform):
        found = units(self, waveform)
        return [found[0] + 1, *found[1:]] if len(waveform) == utterances[1].waveform.numel() else found

    monkeypatch.setattr(Transcriber, "units", another)
    with pytest.raises(ValueError, match="utterance '1'"):
        check.check_programs(compressed, exported / "onnx", utterances)
    monkeypatch.setattr(check, "NEAR_TIE", 1e9)
    assert check.check_programs(compressed, exported / "onnx", utterances) == ["1"]


def test_what_fails_its_check_is_not_left_behind(original, exported, utterances, tmp_path, monkeypatch):
    def write_another(model, folder):
        shutil.copytree(exported / "torch", folder, dirs_exist_ok=True)

    monkeypatch.setitem(FORMATS, "torch", Format(write_another, check.check_programs))
    with pytest.raises(ValueError, match="what was exported from it"):
        export_model(original, tmp_path / "out", "torch", utterances)
    assert list(tmp_path.iterdir()) == []


def test_errors(compressed, exported, utterances, tmp_path):
    with pytest.raises(ValueError, match="no format 'jax'; the formats are safetensors, torch, onnx, huggingface"):
        export_model(compressed, tmp_path / "out", "jax", utterances)
    with pytest.raises(FileExistsError, match="torch exists: delete it"):
        export_model(compressed, exported / "torch", "torch", utterances)
    for name in "torch", "onnx":
        with pytest.raises(ValueError, match=r"only LAS models .* this is 'tiny_ctc': use the format safetensors"):
            export_model(TinyCTC(), tmp_path / "out", name, utterances)
    with pytest.raises(ValueError, match=r"the format huggingface is for models of .* this is 'las'"):
        export_model(compressed, tmp_path / "out", "huggingface", utterances)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(compressed, utterances, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnx needs the package onnxscript: pip install 'shrinkml-env\[export\]'$"):
        export_model(compressed, tmp_path / "out", "onnx", utterances)


@pytest.mark.slow
def test_the_documentation_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxscript")
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    first, second, _ = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = {}
    exec(first, names)
    exec(second, names)
    capsys.readouterr()
    utterance = names["load_utterances"]("dev")[2]
    assert names["transcriber"](utterance.waveform.numpy()) == names["small"].transcribe([utterance.waveform])[0] != ""


def test_a_beam_is_not_exported_as_greedy(original, utterances, tmp_path):
    model = copy.deepcopy(original)
    model.decoding = replace(model.decoding, beam_size=4)
    with pytest.raises(ValueError, match="exported programs search greedily, the model with a beam of 4"):
        export_model(model, tmp_path / "out", "torch", utterances)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_quantised_model_is_refused(original, tmp_path, format):
    quantised = quantise(copy.deepcopy(original))
    with pytest.raises(ValueError, match="export the model that this one was quantised from"):
        export_model(quantised, tmp_path / "out", format, [])
