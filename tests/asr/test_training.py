import itertools

import pytest
import torch

from shrinkml_env.asr import LAS, Augmentation, Decoding, LASConfig, Tokenizer, training
from shrinkml_env.asr.training import Trainer, TrainingSettings
from shrinkml_env.data import SpeechFolder
from tests.conftest import LIBRISPEECH

SIZES = LASConfig(
    encoder_units=24, time_reduction=(3, 2), attention_units=16, embedding_units=8, decoder_units=32, readout_units=16,
    dropout=0.1,
)  # fmt: skip


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
    whole = make_trainer(corpus, tmp_path / "whole", Augmentation())
    whole.run()

    calls = itertools.count()

    def killed(waveform, generator):
        if next(calls) == 12:
            raise KeyboardInterrupt
        return Augmentation()(waveform, generator)

    with pytest.raises(KeyboardInterrupt):
        make_trainer(corpus, tmp_path / "killed", killed).run()
    resumed = make_trainer(corpus, tmp_path / "killed", Augmentation())
    assert (resumed.epoch, resumed.step) != (0, 0)
    resumed.run()
    for name, parameter in whole.model.state_dict().items():
        assert torch.equal(parameter, resumed.model.state_dict()[name]), name


def test_another_training_sets_checkpoint_is_refused(corpus, tmp_path):
    make_trainer(corpus, tmp_path / "run", epochs=1).run()
    smaller = SpeechFolder(corpus.folder.parent, "train", limit=8)
    with pytest.raises(ValueError, match=r"checkpoint\.pt belongs to another training set"):
        make_trainer(smaller, tmp_path / "run", epochs=1)


def test_two_processes_share_every_epochs_batches(corpus, tmp_path, monkeypatch):
    trainer = make_trainer(corpus, tmp_path, batch_seconds=2.5)
    alone = trainer._batches(0)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(training, "_rank_and_world", lambda rank=rank: (rank, 2))
        parts.append(trainer._batches(0))
    assert len(parts[0]) == len(parts[1]) == len(alone) // 2
    utterances = [index for part in parts for batch in part._batches for index in batch]
    assert len(utterances) == len(set(utterances))
    longest = max(corpus.num_samples)
    assert all(len(batch) * longest <= 2.5 * 16_000 for part in parts for batch in part._batches)


@pytest.mark.skipif(not LIBRISPEECH.is_dir(), reason=f"the LibriSpeech sample is not in {LIBRISPEECH}")
def test_a_step_on_real_librispeech(tmp_path):
    trainer = make_trainer(SpeechFolder(LIBRISPEECH, "test-other", limit=4), tmp_path, Augmentation(), 30, epochs=1,
                           batch_seconds=30.0)  # fmt: skip
    weights = trainer.model.decoder.output.weight.detach().clone()
    trainer.run()
    assert not torch.equal(weights, trainer.model.decoder.output.weight)
