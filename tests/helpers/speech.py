"""Speech for tests: where real recordings lie, and a corpus of tones that a small model learns in seconds."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import soundfile
import torch

import shrinkml_env
from shrinkml_env.asr import LAS, Augmentation, Decoding, LASConfig, Tokenizer
from shrinkml_env.data import SpeechFolder

SHIPPED_SPEECH = Path(shrinkml_env.__file__).parent / "assets" / "speech"
"""The folder of the speech in the package."""

LIBRISPEECH = Path(os.environ.get("SHRINKML_TEST_LIBRISPEECH", "../shared/data/LibriSpeech"))
"""Real speech for the tests of the LibriSpeech path; they skip where it is absent."""

WHISPER = Path(os.environ.get("SHRINKML_TEST_WHISPER", "../shared/models/whisper-tiny.en"))
"""A real model for the tests of the adapters; they skip where it is absent."""

TONES = {"low": 300, "high": 2500, "mid": 1000}

SIZES = LASConfig(
    encoder_units=24, time_reduction=(3, 2), attention_units=16, embedding_units=8, decoder_units=32, readout_units=16,
    dropout=0.1,
)  # fmt: skip

PLAIN = Augmentation(speeds=(1.0,), reverberation=0.0, noise=0.0)


def make_corpus(root: Path) -> SpeechFolder:
    """Write nine sentences of two words, each word a tone of 0.3 s between pauses."""
    chapter = root / "train" / "1" / "2"
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
    return SpeechFolder(root, "train")


def make_learner(corpus: SpeechFolder, vocabulary: int = 14) -> LAS:
    """Return a model that has learned nothing yet, of a size that learns the tones; the same each time."""
    torch.manual_seed(0)
    return LAS(SIZES, Tokenizer.train(corpus.texts, vocabulary), Decoding())
