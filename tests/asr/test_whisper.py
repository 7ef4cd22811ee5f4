"""Whisper tiny.en on real speech, against transformers' own way of using it."""

import json

import gymnasium as gym
import numpy as np
import pytest
import soundfile
import torch

from experiments.common.speech import require_divergence
from shrinkml_env import (
    compress,
    count_parameters,
    encoder_parameters,
    load_compressed,
    load_model,
    load_utterances,
    save_compressed,
)
from shrinkml_env.asr.huggingface.folder import import_transformers
from shrinkml_env.compression import SVD, ranks_of
from shrinkml_env.data import SpeechFolder
from tests.helpers.processes import python
from tests.helpers.speech import LIBRISPEECH, WHISPER

pytest.importorskip("transformers")
ABSENT = not (LIBRISPEECH.is_dir() and WHISPER.is_dir())
pytestmark = [pytest.mark.slow, pytest.mark.skipif(ABSENT, reason=f"{LIBRISPEECH} or {WHISPER} is absent")]

SPEECH = {"root": str(LIBRISPEECH), "subset": "test-other"}


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return load_model(f"hf:{WHISPER}")


@pytest.fixture(scope="module")
def factorisation(model):
    return SVD(model)


@pytest.fixture(scope="module")
def utterances():
    """Of the first ones the shortest four, whose transcripts are soon written."""
    return sorted(load_utterances({**SPEECH, "limit": 20}), key=lambda utterance: len(utterance.waveform))[:4]


def small(model, factorisation):
    """Half of the embedding and a little of everything else."""
    ranks = {layer.name: round(0.9 * layer.break_even) for layer in model.layers}
    return compress(model, {**ranks, "decoder.embed_tokens": 190}, factorisation)


@pytest.mark.filterwarnings("ignore")
def test_transcripts_and_normaliser_are_those_of_transformers(model, utterances):
    transformers = import_transformers()
    processor = transformers.WhisperProcessor.from_pretrained(WHISPER)
    network = transformers.WhisperForConditionalGeneration.from_pretrained(WHISPER)
    expected = []
    for utterance in utterances:
        inputs = processor(utterance.waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
        expected += processor.batch_decode(network.generate(inputs.input_features), skip_special_tokens=True)
    found = model.recognise([utterance.waveform for utterance in utterances])
    assert [hypothesis.text for hypothesis in found] == [text.strip() for text in expected]
    assert not any(hypothesis.capped for hypothesis in found)
    texts = [utterance.text for utterance in load_utterances(SPEECH)] + expected
    assert [model.normalise(text) for text in texts] == [processor.tokenizer.normalize(text).strip() for text in texts]


def test_predictions_are_those_of_transformers(model, utterances):
    """Told what it writes greedily, it finds each of these tokens the most probable of those that may be written."""
    waveforms = [utterance.waveform for utterance in utterances]
    texts = model.transcribe(waveforms)
    with torch.inference_mode():
        state = model.begin(waveforms)
        for stage in range(len(model.stages)):
            state = model.advance(stage, state)
        found = model.predict(waveforms, state, texts)
        for waveform, text, predicted in zip(waveforms, texts, found, strict=True):
            tokens = model.tokenizer(f" {text}", add_special_tokens=False).input_ids
            allowed = predicted.index_fill(1, torch.tensor(model.suppressed[0]), -torch.inf)
            assert allowed.argmax(1).tolist() == [*tokens, model.end]
            inputs = torch.tensor([[*model.prompt, *tokens]])
            logits = model.network(input_features=model.features(waveform), decoder_input_ids=inputs).logits[0]
            assert torch.allclose(predicted, logits[len(model.prompt) - 1 :].log_softmax(1), atol=1e-3)


def test_parts_of_a_long_utterance_have_no_transcripts(model):
    long = [torch.zeros(31 * 16_000)]
    with torch.inference_mode():
        state = model.begin(long)
        for stage in range(len(model.stages)):
            state = model.advance(stage, state)
        with pytest.raises(ValueError, match=r"of 31\.0 s is recognised in parts"):
            model.predict(long, state, ["a text"])


def test_an_utterance_without_a_divergence_is_named_before_the_search(model, tmp_path):
    chapter = tmp_path / "speech" / "11" / "5"
    chapter.mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.01, 31 * 16_000)
    for name, samples in {"11-5-0000": noise[:16_000], "11-5-0001": noise}.items():
        soundfile.write(chapter / f"{name}.flac", samples, 16_000)
    (chapter / "11-5.trans.txt").write_text("11-5-0000 A\n11-5-0001 B\n")
    folder = SpeechFolder(tmp_path, "speech")
    require_divergence(model, folder, [0])
    with pytest.raises(ValueError, match=r"11-5-0001: .*at most 30 s; leave out .* overrides=\['reward=accuracy'\]"):
        require_divergence(model, folder, [0, 1])


def test_the_window_is_30_seconds(model):
    assert model.window == 30 * 16_000


def test_sizes(model):
    # d = 384, 4 d^2 + 3 d for an attention (keys have no bias), norms 2 d, feed-forward 4 d inside.
    d = 384
    attention, feed_forward, norm = 4 * d * d + 3 * d, 8 * d * d + 5 * d, 2 * d
    encoder = 240 * d + d + 3 * d * d + d + 1500 * d + 4 * (attention + feed_forward + 2 * norm) + norm
    decoder = 51_864 * d + 448 * d + 4 * (2 * attention + feed_forward + 3 * norm) + norm
    assert encoder_parameters(model) == encoder
    assert count_parameters(model) == encoder + decoder
    assert model.storage_dtype == torch.float16


def test_a_compressed_model_ships(model, factorisation, utterances, tmp_path):
    shipped = small(model, factorisation)
    torch.save([utterance.waveform for utterance in utterances[:2]], tmp_path / "speech.pt")
    save_compressed(shipped, tmp_path / "small")
    size = (tmp_path / "small" / "model.safetensors").stat().st_size
    assert 0 < size - 2 * count_parameters(shipped) < 40_000
    expected = shipped.transcribe([utterance.waveform for utterance in utterances[:2]])
    script = f"""
import json, torch
from shrinkml_env import load_model
torch.set_num_threads(1)
model = load_model({str(tmp_path / "small")!r})
print(json.dumps(model.transcribe(torch.load({str(tmp_path / "speech.pt")!r}))))
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected
    assert ranks_of(load_compressed(tmp_path / "small")) == ranks_of(shipped)


def test_an_episode(factorisation, utterances):
    env = gym.make("ShrinkML-v0", model=f"hf:{WHISPER}", factorisation=factorisation, proxy=utterances[2:])
    env.reset(seed=0)
    terminated, steps = False, 0
    while not terminated:
        *_, terminated, _, info = env.step(np.ones(1, np.float32))  # Dense throughout.
        steps += 1
    assert steps == 2 + 4 * 3 + 1 + 4 * 4
    assert info["size_ratio"] == 1
    assert info["wer"] == info["wer_baseline"] < 0.3
