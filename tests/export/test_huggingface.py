"""Compressed models of Hugging Face's transformers as folders that transformers reads."""

import json
import os
import warnings

import pytest
import torch
from safetensors.torch import load_file

from shrinkml_env import Utterance, compress, count_parameters, load_model, quantise
from shrinkml_env.compression import SVD, ActivationAwareSVD
from shrinkml_env.export import export_model
from tests.helpers.huggingface_models import MAKERS
from tests.helpers.models import tones
from tests.helpers.processes import python

pytest.importorskip("transformers")
UTTERANCES = [Utterance(str(index), "", waveform, "") for index, waveform in enumerate(tones(2))]


def make_compressed(folder, kind, form="factors"):
    """Every layer at half its break-even rank, embedding included; in pivoting form with shared right factors."""
    folder.mkdir()
    model = load_model(f"hf:{MAKERS[kind](folder)}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the calibration speech does not use")
        speech = [utterance.waveform for utterance in UTTERANCES]
        factorisation = (
            SVD(model) if form == "factors" else ActivationAwareSVD(model, speech, form=form, share_inputs=True)
        )
    ranks = {layer.name: max(1, layer.break_even // 2) for layer in factorisation.layers}
    return compress(model, ranks, factorisation)


@pytest.mark.parametrize("form", ["factors", "pivoting"])
@pytest.mark.parametrize("kind", MAKERS)
def test_transformers_reads_what_is_exported(tmp_path, kind, form):
    """`export_model` checks that transformers' model, by the code in the folder, transcribes the same."""
    model = make_compressed(tmp_path / "model", kind, form)
    assert export_model(model, tmp_path / "out", "huggingface", UTTERANCES) == []
    weights = load_file(tmp_path / "out" / "model.shrinkml.safetensors")
    numbers = [weight for weight in weights.values() if weight.is_floating_point()]
    assert sum(weight.numel() for weight in numbers) == count_parameters(model)
    assert {weight.dtype for weight in numbers} == {model.storage_dtype}
    orders = {name for name in weights if name.endswith("weight_order")}
    assert bool(orders) == (form == "pivoting")
    assert {weights[name].dtype for name in orders} <= {torch.int16}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["factors", "pivoting"])
def test_everything_of_transformers_works_with_it(tmp_path, form):
    """Without this library: generating, pipelines, saving again."""
    model = make_compressed(tmp_path / "model", "whisper", form)
    export_model(model, tmp_path / "out", "huggingface", UTTERANCES)
    torch.save([utterance.waveform for utterance in UTTERANCES], tmp_path / "waveforms.pt")
    code = f"""
import json, math, sys
from shrinkml_env.data.torchaudio_compat import import_torchaudio

import_torchaudio()  # So that transformers finds one where the real one is for another torch.
for name in [name for name in sys.modules if name.startswith("shrinkml_env")]:
    sys.modules[name] = None
import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline

waveforms = torch.load("{tmp_path}/waveforms.pt", weights_only=True)
load = AutoModelForSpeechSeq2Seq.from_pretrained
limit = lambda waveform: 8 + math.ceil(6.5 * len(waveform) / 16_000)
processor = AutoProcessor.from_pretrained("{tmp_path}/out")
model = load("{tmp_path}/out", trust_remote_code=True, dtype=torch.float32)
model.save_pretrained("{tmp_path}/again")
texts = []
for network in model, load("{tmp_path}/again", trust_remote_code=True):
    for waveform in waveforms:
        features = processor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
        tokens = network.generate(features, max_new_tokens=limit(waveform), do_sample=False, num_beams=1)
        texts.append(processor.batch_decode(tokens, skip_special_tokens=True)[0])
pipe = pipeline(
    "automatic-speech-recognition", model="{tmp_path}/out", trust_remote_code=True, dtype=torch.float32
)
for waveform in waveforms:
    kwargs = {{"max_new_tokens": limit(waveform), "num_beams": 1}}
    texts.append(pipe(waveform.numpy(), generate_kwargs=kwargs)["text"])
tied = model.model.decoder.embed_tokens.weight_u is model.proj_out.weight_u
json.dump([texts, tied], open("{tmp_path}/texts.json", "w"))
"""
    done = python("-c", code, env={**os.environ, "HF_HOME": str(tmp_path / "home")})
    assert done.returncode == 0, done.stderr
    texts, tied = json.loads((tmp_path / "texts.json").read_text())
    expected = model.transcribe([utterance.waveform for utterance in UTTERANCES])
    assert [text.strip() for text in texts] == expected * 3
    assert len(set(expected)) == 2
    assert tied


def test_without_its_code_transformers_finds_no_weights_rather_than_wrong_ones(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = make_compressed(tmp_path / "model", "whisper")
    export_model(model, tmp_path / "out", "huggingface", UTTERANCES[:1])
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "out", local_files_only=True)


def test_int8_is_refused(tmp_path):
    pytest.importorskip("torchao")
    model = quantise(make_compressed(tmp_path / "model", "whisper"))
    with pytest.raises(ValueError, match="the format huggingface has no int8: export the model that"):
        export_model(model, tmp_path / "out", "huggingface", UTTERANCES)
    assert not (tmp_path / "out").exists()
