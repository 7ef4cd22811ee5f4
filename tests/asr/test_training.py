import itertools

import numpy as np
import pytest
import soundfile
import torch

from shrinkml_env.asr import LAS, Augmentation, Decoding, LASConfig, Tokenizer
from shrinkml_env.asr.training import Trainer, TrainingSettings
from shrinkml_env.data import SpeechFolder
from tests.conftest import LIBRISPEECH

SIZES = LASConfig(
    encoder_units=24, time_reduction=(3, 2), attention_units=16, embedding_units=8, decoder_units=32, readout_units=16,
    dropout=0.0,
)  # fmt: skip
TONES = {"low": 300, "high": 2500, "mid": 1000}


@pytest.fixture
def corpus(tmp_path):
    """Nine sentences of two words, each word a tone of 0.3 s between pauses."""
    chapter = tmp_path / "train" / "1" / "2"
    chapter.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for index, words in enumerate(itertools.product(TONES, repeat=2)):
        time, pause = np.arange(4800) / 16_000, np.zeros(3200)
        first, second = (0.3 * np.sin(2 * np.pi * TONES[word] * time) for word in words)
        samples = np.concatenate([pause, first, pause, second, pause])
        samples += 0.01 * rng.standard_normal(len(samples))
        soundfile.write(chapter / f"1-2-{index:04d}.flac", samples, 16_000)
        lines.append(f"1-2-{index:04d} {' '.join(words).upper()}")
    (chapter / "1-2.trans.txt").write_text("\n".join(lines) + "\n")
    return SpeechFolder(tmp_path, "train")


def make_trainer(corpus, directory, augmentation=None, vocabulary=14, **settings):
    torch.manual_seed(0)
    model = LAS(SIZES, Tokenizer.train(corpus.texts, vocabulary), Decoding())
    plain = Augmentation(speeds=(1.0,), reverberation=0.0, noise=0.0)
    options = {"epochs": 2, "batch_seconds": 2.0, "checkpoint_steps": 1, **settings}
    return Trainer(model, corpus, list(corpus), augmentation or plain, TrainingSettings(**options), directory)


def test_learns_to_tell_tones_apart(corpus, tmp_path):
    trainer = make_trainer(
        corpus, tmp_path / "run", epochs=120, batch_seconds=20.0, learning_rate=1e-2, label_smoothing=0.0,
        checkpoint_steps=1000,
    )  # fmt: skip
    before = trainer.dev_wer()
    trainer.run()
    assert trainer.dev_wer() < 0.2 < before
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_killed_training_resumes_to_the_same_weights(corpus, tmp_path):
    whole = make_trainer(corpus, tmp_path / "whole")
    whole.run()

    calls = itertools.count()

    def killed(waveform, generator):
        if next(calls) == 12:
            raise KeyboardInterrupt
        return waveform

    with pytest.raises(KeyboardInterrupt):
        make_trainer(corpus, tmp_path / "killed", killed).run()
    resumed = make_trainer(corpus, tmp_path / "killed")
    assert (resumed.epoch, resumed.step) != (0, 0)
    resumed.run()
    for name, parameter in whole.model.state_dict().items():
        assert torch.equal(parameter, resumed.model.state_dict()[name]), name


@pytest.mark.skipif(not LIBRISPEECH.is_dir(), reason=f"the LibriSpeech sample is not in {LIBRISPEECH}")
def test_a_step_on_real_librispeech(tmp_path):
    trainer = make_trainer(SpeechFolder(LIBRISPEECH, "test-other", limit=4), tmp_path, Augmentation(), 30, epochs=1,
                           batch_seconds=30.0)  # fmt: skip
    weights = trainer.model.decoder.output.weight.detach().clone()
    trainer.run()
    assert not torch.equal(weights, trainer.model.decoder.output.weight)
