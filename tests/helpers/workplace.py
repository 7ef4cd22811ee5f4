"""What a search on a small recogniser of another architecture needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from shrinkml_env import save_compressed
from tests.helpers.models import TinyCTC, tones


def make_workplace(folder: Path, model: TinyCTC) -> list[str]:
    """Save the model, and three sets in LibriSpeech's layout that it half recognises; returns the overrides."""
    save_compressed(model, folder / "model")
    for seed, subset in enumerate(("proxy", "dev", "test")):
        chapter = folder / subset / "1" / "2"
        chapter.mkdir(parents=True)
        lines = []
        for index, waveform in enumerate(tones(4, seed)):
            soundfile.write(chapter / f"1-2-{index:04d}.flac", np.clip(waveform.numpy(), -1, 1), 16_000)
            words = model.transcribe([waveform])[0].split()
            lines.append(f"1-2-{index:04d} {' '.join(['word', *words[1:], 'more']).upper()}")
        (chapter / "1-2.trans.txt").write_text("\n".join(lines) + "\n")
    sets = [f"{name}={{root: {folder}, subset: {name}}}" for name in ("proxy", "dev", "test")]
    return [f"model={folder / 'model'}", *sets]


def make_speech(folder: Path, model: TinyCTC) -> Path:
    """Save the model, and speech of four speakers with three utterances each, of which it gets most words right."""
    save_compressed(model, folder / "model")
    for speaker in ("11", "12", "13", "14"):
        chapter = folder / "speech" / speaker / "5"
        chapter.mkdir(parents=True)
        lines = []
        for number, waveform in enumerate(tones(3, int(speaker))):
            soundfile.write(chapter / f"{speaker}-5-{number:04d}.flac", np.clip(waveform.numpy(), -1, 1), 16_000)
            (text,) = model.transcribe([waveform])
            lines.append(f"{speaker}-5-{number:04d} {text.upper()} MORE")
        (chapter / f"{speaker}-5.trans.txt").write_text("\n".join(lines) + "\n")
    return folder / "speech"
