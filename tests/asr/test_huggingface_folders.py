"""Folders of Hugging Face's models that are outdated, damaged or incomplete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from shrinkml_env import load_model
from shrinkml_env.asr.huggingface import HuggingFaceWhisper
from shrinkml_env.asr.huggingface.folder import import_transformers, unpacked
from tests.helpers.huggingface_models import make_ctc, make_whisper, waveforms

pytest.importorskip("transformers")


def edit_generation(folder, lost, **changes):
    path = folder / "generation_config.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in settings.items() if name not in lost}))


def generated(folder):
    """Return what transformers writes of the first waveform."""
    transformers = import_transformers()
    network = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model = load_model(f"hf:{folder}")
    tokens = network.generate(model.features(waveforms()[0]), max_new_tokens=12)
    return model.tokenizer.decode(tokens[0], skip_special_tokens=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("outdated", [False, True])
def test_whisper_whose_files_force_the_language(tmp_path, outdated):
    make_whisper(tmp_path, ("en", "de"))
    ids = HuggingFaceWhisper.from_folder(tmp_path).tokenizer.convert_tokens_to_ids
    marks = ["<|de|>", "<|transcribe|>", "<|notimestamps|>"]
    forced = [[position, ids(mark)] for position, mark in enumerate(marks, start=1)]
    lost = ("is_multilingual", "lang_to_id", "task_to_id") if outdated else ()
    edit_generation(tmp_path, lost, forced_decoder_ids=forced)
    model = load_model(f"hf:{tmp_path}")
    assert model.prompt == ids(["<|startoftranscript|>", *marks])
    assert model.normalise("Zwei colour") == "zwei colour"  # Not by the rules of English.
    assert model.transcribe(waveforms()[:1])[0][:12] == generated(tmp_path)
    if not outdated:
        named = HuggingFaceWhisper.from_folder(tmp_path, language="en")
        assert named.prompt == ids(["<|startoftranscript|>", "<|en|>", *marks[1:]])


@pytest.mark.filterwarnings("ignore")
def test_a_language_is_never_ignored(tmp_path):
    english, outdated = tmp_path / "english", tmp_path / "outdated"
    for folder, languages in {english: (), outdated: ("en", "de")}.items():
        folder.mkdir()
        make_whisper(folder, languages)
    assert HuggingFaceWhisper.from_folder(str(english), language="English").prompt == load_model(f"hf:{english}").prompt
    with pytest.raises(ValueError, match="language 'de': the model knows English only"):
        HuggingFaceWhisper.from_folder(english, language="de")
    edit_generation(outdated, ("is_multilingual", "lang_to_id", "task_to_id"))
    ids = load_model(f"hf:{outdated}").tokenizer.convert_tokens_to_ids
    assert load_model(f"hf:{outdated}").prompt == ids(["<|startoftranscript|>", "<|notimestamps|>"])
    for language in "de", "en":
        with pytest.raises(ValueError, match=rf"language '{language}': generation_config\.json is outdated"):
            HuggingFaceWhisper.from_folder(outdated, language=language)
    edit_generation(outdated, (), forced_decoder_ids=[[1, None], [2, ids("<|transcribe|>")]])
    with pytest.raises(ValueError, match=r"generation_config\.json is outdated"):
        load_model(f"hf:{outdated}")
    edit_generation(outdated, (), forced_decoder_ids=[[2, ids("<|transcribe|>")]])
    with pytest.raises(ValueError, match="forced_decoder_ids must be at positions 1, 2"):
        load_model(f"hf:{outdated}")


def edit(folder: Path, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), FileNotFoundError, r"config\.json: no such file"),
        (lambda folder: (folder / "config.json").write_text("[]"), ValueError, r"config\.json: no model_type"),
        (
            lambda folder: edit(folder, model_type="wavlm"),
            ValueError,
            "no adapter for models of type 'wavlm'; .*hubert",
        ),
        (
            lambda folder: make_ctc(folder, "Wav2Vec2", add_adapter=True, output_hidden_size=16),
            ValueError,
            "add_adapter are not supported",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), ValueError, r"no \*\.safetensors in it, and pickled"),
        (lambda folder: edit(folder, num_hidden_layers=3), ValueError, "the weights lack .*fine-tuned"),
        (
            lambda folder: (folder / "preprocessor_config.json").write_text(
                (folder / "preprocessor_config.json").read_text().replace("16000", "8000")
            ),
            ValueError,
            "the model wants 8000 Hz; ShrinkML's waveforms have 16000 Hz",
        ),
    ],
)
def test_unusable_folders(tmp_path, spoil, error, message):
    make_ctc(tmp_path, "Wav2Vec2")
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        load_model(f"hf:{tmp_path}")


@pytest.mark.parametrize("missing", ["./nothing", "nothing", "a/b/c"])
def test_missing_folders(missing):
    with pytest.raises(FileNotFoundError, match=rf"hf:{missing}: no such folder, nor .* \(ORG/NAME\)"):
        load_model(f"hf:{missing}")


def test_only_known_files_are_unpacked():
    with pytest.raises(ValueError, match=r"unexpected file '\.\./config\.json'"), unpacked({"../config.json": ""}):
        pass
