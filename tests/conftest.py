import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from shrinkml_env.data import SpeechFolder

LIBRISPEECH = Path(os.environ.get("SHRINKML_TEST_LIBRISPEECH", "../shared/data/LibriSpeech"))
"""Real speech for the tests of the LibriSpeech path; they skip where it is absent."""

WHISPER = Path(os.environ.get("SHRINKML_TEST_WHISPER", "../shared/models/whisper-tiny.en"))
"""A real model for the tests of the adapters; they skip where it is absent."""


@pytest.fixture(autouse=True)
def one_thread():
    """Two busy threads on two busy cores are far slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    """No test reads measurements that something else has left on this machine."""
    monkeypatch.setenv("SHRINKML_CACHE", str(tmp_path / "evaluations.sqlite"))


TONES = {"low": 300, "high": 2500, "mid": 1000}


def make_corpus(root):
    """Nine sentences of two words, each word a tone of 0.3 s between pauses."""
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


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path)
