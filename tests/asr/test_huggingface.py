"""The adapters on tiny models with random weights, against transformers' own way of using them."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import sys

import gymnasium as gym
import numpy as np
import pytest
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode

from shrinkml_env import CompressibleModel, Evaluator, Utterance, encoder_parameters, load_compressed, load_model
from shrinkml_env.asr import Decoding
from shrinkml_env.asr.huggingface.folder import import_transformers
from shrinkml_env.compression import (
    ActivationAwareSVD,
    StagedModel,
    compress,
    count_macs,
    count_parameters,
    ranks_of,
    save_compressed,
    second_moments,
)
from shrinkml_env.evaluation import EvaluationCache
from tests.helpers.models import tones
from tests.helpers.processes import python

pytest.importorskip("transformers")
from tests.helpers.huggingface_models import MAKERS, make_speech2text, make_whisper, waveforms

SEQ2SEQ = ("whisper", "speech2text", "moonshine")
RANKS = {
    "whisper": {"encoder.conv2": 5, "encoder.layers.1.self_attn": 4, "decoder.embed_tokens": 6},
    "speech2text": {"encoder.conv.conv_layers.1": 5, "decoder.embed_tokens": 6, "decoder.layers.0.encoder_attn": 3},
    "moonshine": {"encoder.conv2": 5, "decoder.embed_tokens": 6, "decoder.layers.1.mlp.fc1": 3},
    "wav2vec2": {"wav2vec2.encoder.layers.0.attention": 3, "lm_head": 4},
    "hubert": {"hubert.encoder.layers.1.feed_forward.output_dense": 3, "lm_head": 4},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, make in MAKERS.items():
        made[name] = tmp_path_factory.mktemp(name)
        make(made[name])
    return made


@pytest.fixture(scope="module")
def models(folders):
    return {name: load_model(f"hf:{folder}") for name, folder in folders.items()}


@pytest.fixture(params=MAKERS)
def name(request):
    return request.param


def plain_transcripts(name, folder, limits):
    """As transformers' documentation has it, one utterance after the other."""
    transformers = import_transformers()
    network_class, processor_class = {
        "whisper": ("WhisperForConditionalGeneration", "WhisperProcessor"),
        "speech2text": ("Speech2TextForConditionalGeneration", "Speech2TextProcessor"),
        "moonshine": ("MoonshineForConditionalGeneration", None),
        "wav2vec2": ("Wav2Vec2ForCTC", None),
        "hubert": ("HubertForCTC", None),
    }[name]
    network = getattr(transformers, network_class).from_pretrained(folder, dtype=torch.float32)
    if processor_class is None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    else:
        processor = getattr(transformers, processor_class).from_pretrained(folder)
        tokenizer, extractor = processor.tokenizer, processor.feature_extractor
    texts = []
    for waveform, limit in zip(waveforms(), limits, strict=True):
        inputs = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
        if name in SEQ2SEQ:
            tokens = network.generate(**inputs, max_new_tokens=limit, num_beams=1, do_sample=False)
            texts += tokenizer.batch_decode(tokens, skip_special_tokens=True)
        else:
            with torch.no_grad():
                texts += tokenizer.batch_decode(network(inputs.input_values).logits.argmax(2))
    return [text.strip() for text in texts]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transcripts_are_those_of_transformers(name, folders, models):
    # 8 tokens and 6.5 a second, rounded up.
    limits = [8 + -(-13 * len(waveform) // 32_000) for waveform in waveforms()]
    model = models[name]
    found = model.recognise(waveforms())
    assert [hypothesis.text for hypothesis in found] == plain_transcripts(name, folders[name], limits)
    assert len({hypothesis.text for hypothesis in found}) >= 3
    if name in SEQ2SEQ:
        assert any(hypothesis.capped for hypothesis in found)


def test_is_compressible_and_batching_changes_nothing(name, models):
    model = models[name]
    assert isinstance(model, CompressibleModel)
    assert not model.training
    alone = [model.transcribe([waveform])[0] for waveform in waveforms()]
    assert model.transcribe(waveforms()) == alone
    assert model.transcribe([]) == model.recognise([]) == []
    assert model.transcribe([waveform.double().numpy()[None] for waveform in waveforms()]) == alone
    with pytest.raises(ValueError, match=r"transcribe takes a list of waveforms, .* got one float32 of shape"):
        model.transcribe(waveforms()[0])
    with pytest.raises(ValueError, match="waveform 0: holds samples that are NaN"):
        model.transcribe([torch.nan * waveforms()[0]])


def test_layers(name, models):
    layers = {layer.name: layer for layer in models[name].layers}
    attention = [layer for layer in layers if "attn" in layer or layer.endswith("attention")]
    assert {len(layers[layer].matrices) for layer in attention} == {4}
    assert all(len(layer.matrices) == 1 for layer in layers.values() if layer.name not in attention)
    if name in SEQ2SEQ:
        # Two encoder layers, two decoder layers with two attentions each; one matrix both looks up and writes.
        assert len(attention) == 2 + 2 * 2
        assert "decoder.embed_tokens" in layers
        assert not {"proj_out", "lm_head", "encoder.embed_positions"} & set(layers)


def test_full_rank_changes_nothing(name, models):
    model = models[name]
    dense = compress(model, {layer.name: layer.max_rank for layer in model.layers})
    assert ranks_of(dense) == {}
    assert dense.transcribe(waveforms()) == model.transcribe(waveforms())


def test_compressed_models_count_what_they_hold(name, models):
    model = models[name]
    smaller = compress(model, RANKS[name])
    assert smaller.layers == model.layers
    assert smaller.transcribe(waveforms()) != model.transcribe(waveforms())
    held = {id(part): part.numel() for key, part in smaller.named_parameters() if "masked_spec" not in key}
    assert count_parameters(smaller) == sum(held.values())
    assert encoder_parameters(smaller) < encoder_parameters(model) < count_parameters(model)


def test_factors_give_what_their_products_give(name, models):
    compressed, merged = compress(models[name], RANKS[name]), copy.deepcopy(models[name])
    for matrix in ranks_of(compressed):
        # A tied one is the same parameter in both of its places.
        weight = merged.get_parameter(matrix)
        u, v = (compressed.get_parameter(f"{matrix}_{part}") for part in "uv")
        weight.data = (u @ v).detach().view(weight.shape)
    assert compressed.transcribe(waveforms()) == merged.transcribe(waveforms())


def test_tied_factors_look_up_and_write(models):
    network = compress(models["whisper"], {"decoder.embed_tokens": 6}).network
    assert network.proj_out.weight_u is network.model.decoder.embed_tokens.weight_u
    assert network.proj_out.weight_v is network.model.decoder.embed_tokens.weight_v


def test_copies_and_pickles(name, models):
    model = models[name]
    expected = model.transcribe(waveforms())
    for other in copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
        assert other.transcribe(waveforms()) == expected
        assert vars(other).keys() == vars(model).keys()


@pytest.mark.slow
def test_workers(models):
    """Each unpickles the model in a process that knows nothing of transformers."""
    utterances = [Utterance(str(index), "s", wave, "set an alarm") for index, wave in enumerate(tones(2))]
    several = Evaluator(models["speech2text"], utterances, workers=2)
    ranks = [{"encoder.layers.0.fc1": 1}, {"encoder.layers.0.fc1": 2}]
    try:
        found = list(several.evaluate_many(ranks))
    finally:
        several.close()
    alone = Evaluator(models["speech2text"], utterances)
    assert found == [alone.evaluate(each) for each in ranks]


@pytest.mark.slow
def test_saved_models_need_no_original(folders, tmp_path):
    """All in one new process, since importing transformers takes seconds."""
    expected = {}
    for name, folder in folders.items():
        original = tmp_path / "original" / name
        shutil.copytree(folder, original)
        model = load_model(f"hf:{original}")
        small = compress(model, RANKS[name])
        save_compressed(small, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["storage_dtype"] == ("float16" if name in SEQ2SEQ else "float32")
        expected[name] = [small.transcribe(waveforms()), count_parameters(small), ranks_of(small)]
    shutil.rmtree(tmp_path / "original")
    torch.save(waveforms(), tmp_path / "waveforms.pt")
    script = f"""
import json, torch
from pathlib import Path
from shrinkml_env import count_parameters, load_model
from shrinkml_env.compression import ranks_of
folder = Path({str(tmp_path)!r})
waveforms = torch.load(folder / "waveforms.pt")
torch.set_num_threads(1)
models = {{name: load_model(folder / name) for name in {list(folders)}}}
print(json.dumps({{
    name: [model.transcribe(waveforms), count_parameters(model), ranks_of(model)] for name, model in models.items()
}}))
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_saving_what_was_loaded_changes_nothing(models, tmp_path):
    save_compressed(models["whisper"], tmp_path / "first")
    save_compressed(load_compressed(tmp_path / "first"), tmp_path / "second")
    for file in "config.json", "model.safetensors":
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def flops(model, waves):
    """(those of the network, calls of the decoder) while it recognises."""
    features = iter([model.features(waveform) for waveform in waves])  # Features are not counted.
    model.features = lambda waveform: next(features)
    calls = []
    if hasattr(model.network, "model"):
        model.network.model.decoder.register_forward_hook(lambda *_: calls.append(1))
    with FlopCounterMode(display=False) as counter:
        model.recognise(waves)
    # Moonshine's angles are a matrix product of positions and frequencies.
    rotary = sum(sum(counts.values()) for key, counts in counter.get_flop_counts().items() if "rotary" in key)
    return counter.get_total_flops() - rotary, len(calls)


@pytest.mark.parametrize("compressed", [False, True])
def test_multiply_adds_are_those_that_torch_counts(name, models, compressed):
    model = copy.deepcopy(compress(models[name], RANKS[name] if compressed else {}))
    model.network.config._attn_implementation = "eager"  # torch does not count what its fused kernels do.
    (waveform,) = tones(1)
    ranks = RANKS[name] if compressed else {}
    total, calls = flops(model, [waveform])
    model._num_tokens = lambda text: calls - 1
    assert 2 * count_macs(model.layers, ranks, model.workload([len(waveform)], [""])) == total


def test_an_output_of_its_own(tmp_path):
    model = load_model(f"hf:{make_speech2text(tmp_path, tie_word_embeddings=False)}")
    assert {"decoder.embed_tokens", "lm_head"} <= {layer.name for layer in model.layers}
    for ranks in ({}, {"decoder.embed_tokens": 5}, {"lm_head": 6}):
        smaller = copy.deepcopy(compress(model, ranks))
        total, calls = flops(smaller, tones(1))
        smaller._num_tokens = lambda text, calls=calls: calls - 1
        assert 2 * count_macs(model.layers, ranks, smaller.workload([8000], [""])) == total


def test_multiply_adds_add_up(name, models):
    model, lengths, texts = models[name], [9000, 31_000, 12_345], ["set an alarm", "call", "jazz"]
    together = count_macs(model.layers, RANKS[name], model.workload(lengths, texts))
    alone = [model.workload([length], [text]) for length, text in zip(lengths, texts, strict=True)]
    assert together == sum(count_macs(model.layers, RANKS[name], workload) for workload in alone)


def test_whisper_in_stages(models):
    model = models["whisper"]
    assert isinstance(model, StagedModel)
    assert not isinstance(models["moonshine"], StagedModel)
    assert model.stages == (
        ("encoder.conv1", "encoder.conv2"),
        *(tuple(f"encoder.layers.{i}.{part}" for part in ("self_attn", "fc1", "fc2")) for i in range(2)),
        ("decoder.layers.0.encoder_attn", "decoder.layers.1.encoder_attn"),
    )
    smaller = compress(model, RANKS["whisper"])
    state = smaller.begin(waveforms())
    for stage in range(4):
        state = smaller.advance(stage, state)
    assert smaller.finish(waveforms(), state) == smaller.recognise(waveforms())
    inputs = model.features(waveforms()[0])
    with torch.inference_mode():
        expected = smaller.network.model.encoder(inputs).last_hidden_state
        assert torch.equal(state[0][:1], expected)


def test_whispers_last_stage_spares_the_decoder_the_keys_and_values(models):
    """What transformers computes without them is bit for bit the same."""
    model, calls = copy.deepcopy(models["whisper"]), []
    attentions = [layer.encoder_attn for layer in model.network.model.decoder.layers]
    for module in (projection for attention in attentions for projection in (attention.k_proj, attention.v_proj)):
        module.register_forward_hook(lambda *_: calls.append(1))
    texts = model.transcribe(waveforms())
    with torch.inference_mode():
        state = model.begin(waveforms())
        for stage in range(4):
            state = model.advance(stage, state)
        calls.clear()
        before = [part.clone() for part in state]
        found = model.finish(waveforms(), state), model.predict(waveforms(), state, texts)
        assert not calls
        assert all(map(torch.equal, state, before))
        alone = {"encoder_hidden_states": state[0]}
        samples = [waveform.numel() for waveform in waveforms()]
        assert found[0] == model.spell(alone, samples)
        expected = model.teacher_forced(alone, [model._tokens(f" {text}") for text in texts])
        assert all(map(torch.equal, found[1], expected))
        assert calls


def test_whisper_hears_long_utterances_in_equal_parts(models):
    model = models["whisper"]
    (long,) = (torch.cat(tones(5))[:70_000],)
    parts = [long[:23_334], long[23_334:46_667], long[46_667:]]
    heard = model.transcribe([long, parts[0], long])
    assert heard == [" ".join(model.transcribe(parts)), model.transcribe(parts[:1])[0], heard[0]]
    one, three = model.workload([20_000], ["a"]), model.workload([70_000], ["abc"])
    assert three.positions == {matrix: 3 * count for matrix, count in one.positions.items()}


@pytest.mark.filterwarnings("ignore")
def test_whisper_of_several_languages(tmp_path):
    make_whisper(tmp_path, ("en", "de"))
    model = load_model(f"hf:{tmp_path}")
    ids = model.tokenizer.convert_tokens_to_ids
    marks = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    assert model.prompt == ids(marks)
    german = type(model).from_folder(tmp_path, language="german")
    assert german.prompt == ids([mark.replace("en", "de") for mark in marks])
    assert german.normalise("Größe 2!") == "größe 2"
    assert german.transcribe(waveforms()) != model.transcribe(waveforms())
    transformers = import_transformers()
    network = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = network.generate(model.features(waveforms()[0]), language="de", max_new_tokens=12)
    assert german.tokenizer.decode(tokens[0], skip_special_tokens=True) == german.transcribe(waveforms()[:1])[0][:12]
    again = type(german).from_config(german.to_config())
    assert again.prompt == german.prompt
    with pytest.raises(ValueError, match=r"language 'fr': the model knows .*<\|en\|>"):
        type(model).from_folder(tmp_path, language="fr")


def test_text_is_compared_in_the_models_normal_form(models):
    # The tokenizer's own file says how a word is spelled.
    assert models["whisper"].normalise("Mr. Colour's twenty-one DOGS!") == "mister color is 21 dogs"
    assert models["whisper"].normalise("We can\u2019t, don\u02bct") == "we can not do not"
    assert models["wav2vec2"].normalise("IT'S  TWENTY-ONE_Élan") == "it's twenty one élan"


def test_weight_normalisation_is_merged(folders, models):
    network = import_transformers().Wav2Vec2ForCTC.from_pretrained(folders["wav2vec2"], dtype=torch.float32)
    expected = network.wav2vec2.encoder.pos_conv_embed.conv.weight
    found = models["wav2vec2"].network.wav2vec2.encoder.pos_conv_embed.conv.weight
    assert torch.equal(found, expected)
    assert models["wav2vec2"].storage_dtype == torch.float32  # No smaller format holds the product exactly.
    # What only training uses is neither counted nor saved, and a merged weight is counted as it is.
    expected = sum(part.numel() for name, part in network.named_parameters() if "masked_spec_embed" not in name)
    expected -= sum(part.numel() for name, part in network.named_parameters() if "original0" in name)
    assert count_parameters(models["wav2vec2"]) == expected


def test_evaluations_are_cached_and_staged(models, tmp_path):
    model = models["whisper"]
    utterances = [
        Utterance(str(i), "s", wave, text) for i, (wave, text) in enumerate(zip(waveforms(), "abcde", strict=True))
    ]
    evaluators = [Evaluator(model, utterances, cache=EvaluationCache(tmp_path / "cache")) for _ in range(2)]
    first = evaluators[0].evaluate(RANKS["whisper"])
    assert len(evaluators[0].cache) == 1
    assert evaluators[1].evaluate(RANKS["whisper"]) == first
    assert len(evaluators[0].cache) == 1
    assert first.params == count_parameters(compress(model, RANKS["whisper"]))
    each = Evaluator(model, utterances, granularity="matrix")
    assert len(each.layers) == sum(len(layer.matrices) for layer in model.layers)
    split = each.evaluate({"network.model.encoder.layers.0.self_attn.q_proj.weight": 2})
    assert each.baseline.params - split.params == 16 * 16 - 2 * 32


@pytest.fixture
def proxy(tmp_path):
    chapter = tmp_path / "speech" / "1" / "2"
    chapter.mkdir(parents=True)
    for index, waveform in enumerate(tones(3)):
        soundfile.write(chapter / f"1-2-{index:04d}.flac", np.clip(waveform.numpy(), -1, 1), 16_000)
    (chapter / "1-2.trans.txt").write_text("".join(f"1-2-{i:04d} SET AN ALARM\n" for i in range(3)))
    return {"root": str(tmp_path), "subset": "speech", "limit": 2}


def test_an_episode(name, folders, proxy):
    env = gym.make("ShrinkML-v0", model=f"hf:{folders[name]}", proxy=proxy)
    env.reset(seed=0)
    terminated = False
    while not terminated:
        _, _, terminated, _, info = env.step(np.zeros(1, np.float32))
    assert 0 < info["size_ratio"] < 1
    assert info["ranks"].keys() == {layer.name for layer in env.unwrapped.layers}


def test_without_transformers(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"transformers: pip install 'shrinkml-env\[hf\]'"):
        load_model(f"hf:{folders['whisper']}")


@pytest.mark.slow
def test_importing_the_library_does_not_import_transformers():
    script = "import sys, shrinkml_env; print([name for name in sys.modules if name.startswith('transformers')])"
    assert python("-c", script).stdout.strip() == "[]"


def test_beams_are_refused(models):
    with pytest.raises(ValueError, match="beam_size must be 1"):
        type(models["whisper"])(models["whisper"].files, Decoding(beam_size=2))


def test_calibration_sees_every_matrix(models, name):
    """And recognises as before; a matrix that was not seen would be warned about."""
    model = models[name]
    before = model.transcribe(waveforms()[:2])
    found = ActivationAwareSVD(model, waveforms()[:2])
    names = {matrix.name for layer in model.layers for matrix in layer.matrices}
    assert set(second_moments(model, waveforms()[:2])) == set(found.singular_values) == names
    assert model.transcribe(waveforms()[:2]) == before


def test_too_short_for_the_model(name, models, tmp_path):
    model = models[name]
    shortest = model.shortest
    # Two of Kaldi's windows, 25 ms each, 10 ms apart.
    # Moonshine: (1 - 1) * 2 + 3 = 3, (3 - 1) * 3 + 7 = 13, (13 - 1) * 64 + 127 = 895.
    # Wav2Vec2 and HuBERT: (1 - 1) * 4 + 3 = 3, (3 - 1) * 4 + 3 = 11, (11 - 1) * 5 + 10 = 60.
    assert shortest == {"whisper": 1, "speech2text": 560, "moonshine": 895}.get(name, 60)
    sound = torch.randn(shortest, generator=torch.Generator().manual_seed(0))
    assert len(model.transcribe([sound])) == 1
    counted = model.workload([shortest - 1], ["a"])
    assert min(*counted.positions.values(), *counted.lookups.values(), counted.other_macs) >= 0
    if shortest == 1:
        return
    with pytest.raises(ValueError, match=f"{shortest - 1} samples are too few for the model, which needs {shortest}"):
        model.transcribe([sound, sound[1:]])
    proxy = [Utterance("long", "s", tones(1)[0], "a"), Utterance("12-5-0001", "s", sound[1:], "a")]
    with pytest.raises(ValueError, match=f"utterance '12-5-0001': {shortest - 1} samples are too few for the model"):
        gym.make("ShrinkML-v0", model=model, proxy=proxy, cache=None)
    aware = {"name": "activation_aware", "calibration": proxy}
    with pytest.raises(ValueError, match=f"utterance '12-5-0001': {shortest - 1} samples are too few for the model"):
        gym.make("ShrinkML-v0", model=model, proxy=proxy[:1], factorisation=aware, cache=None)
