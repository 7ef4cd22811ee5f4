"""Speech that is damaged, or something else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from shrinkml_env import load_utterances
from tests.helpers.speech import make_corpus
from tests.reliability.bad_input.spoil import Spoil, cut, replace_with


def speech(spoil: Spoil, folder: Path) -> None:
    make_corpus(folder)
    chapter = folder / "train" / "1" / "2"
    spoil(chapter)
    load_utterances({"root": str(folder), "subset": "train"})


def ids(content: bytes, folder: Path) -> None:
    make_corpus(folder)
    (folder / "ids.txt").write_bytes(content)
    load_utterances({"root": str(folder), "subset": "train", "ids": str(folder / "ids.txt")})


NOISE = 0.1 * np.random.default_rng(0).standard_normal((8000, 2))


def sound(name: str = "1-2-0001.flac", samples: Any = NOISE[:, 0], rate: int = 16_000, **options: Any) -> Spoil:
    return lambda chapter: soundfile.write(chapter / name, samples, rate, **options)


def as_wav(then: Spoil, samples: Any = NOISE[:, 0], **options: Any) -> Spoil:
    def spoil(chapter: Path) -> None:
        (chapter / "1-2-0001.flac").unlink()
        soundfile.write(chapter / "1-2-0001.wav", samples, 16_000, **options)
        then(chapter / "1-2-0001.wav")

    return spoil


def lines(old: str, new: str) -> Spoil:
    def spoil(chapter: Path) -> None:
        text = (chapter / "1-2.trans.txt").read_text()
        assert old in text
        (chapter / "1-2.trans.txt").write_text(text.replace(old, new))

    return spoil


def nothing(_: Path) -> None:
    """Leave it as it is."""


def audio(then: Spoil) -> Spoil:
    return lambda chapter: then(chapter / "1-2-0001.flac")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


FLAC, TEXT = r"1-2-0001\.flac: ", r"1-2\.trans\.txt, line 2: "

SPEECH: list[tuple[str, str, Spoil]] = [
    ("FLAC: other bytes", f"{FLAC}not a readable audio file", audio(replace_with(b"x" * 99))),
    ("FLAC: empty", f"{FLAC}not a readable audio file", audio(replace_with(b""))),
    ("FLAC: cut off", f"{FLAC}(not a readable|cut off)", audio(cut(0.5))),
    ("FLAC: no sample", f"{FLAC}(holds no sample|not a readable audio file)", sound(samples=np.zeros(0))),
    ("FLAC: stereo", rf"{FLAC}needs mono audio at 16000 Hz, has 2 channel\(s\) at 16000 Hz", sound(samples=NOISE)),
    ("FLAC: 44.1 kHz", rf"{FLAC}needs mono audio at 16000 Hz, has 1 channel\(s\) at 44100 Hz", sound(rate=44_100)),
    ("WAV: cut off", r"1-2-0001\.wav: cut off, \d+ bytes of its samples are missing", as_wav(cut(0.5))),
    (
        "WAV: NaN",
        r"1-2-0001\.wav: holds samples that are NaN or infinite",
        as_wav(nothing, np.full(100, np.nan), subtype="FLOAT"),
    ),
    (
        "WAV: floats at the scale of int16",
        r"1-2-0001\.wav: holds samples as large as \d+, where full scale is 1",
        as_wav(nothing, 32768 * NOISE[:, 0], subtype="FLOAT"),
    ),
    ("an audio file is missing", f"{FLAC}listed in 1-2.trans.txt, line 2, but missing", audio(remove)),
    ("an audio file is a folder", f"{FLAC}", audio(lambda path: (path.unlink(), path.mkdir()))),
    (
        "an audio file of a kind that is not read",
        r"1-2-0001\.m4a: listed in 1-2\.trans\.txt, line 2, but audio is read from",
        audio(lambda path: path.rename(path.with_suffix(".m4a"))),
    ),
    (
        "transcripts: a line without words",
        f"{TEXT}expected an utterance id and its text, got '1-2-0001'",
        lines("1-2-0001 LOW HIGH", "1-2-0001"),
    ),
    ("transcripts: an id twice", f"{TEXT}'1-2-0000' is listed twice", lines("1-2-0001", "1-2-0000")),
    (
        "transcripts: an id without audio",
        r"1-2-0077\.flac: listed in 1-2\.trans\.txt, line 2, but missing",
        lines("1-2-0001", "1-2-0077"),
    ),
    (
        "transcripts: an id that is a path",
        r"listed in 1-2\.trans\.txt, line 2, but missing",
        lines("1-2-0001", "../2/1-2-0001"),
    ),
    (
        "transcripts: a line is missing",
        rf"{FLAC}no \*\.trans\.txt beside it says what is spoken",
        lines("1-2-0001 LOW HIGH\n", ""),
    ),
    (
        "transcripts: not in UTF-8",
        r"1-2\.trans\.txt: not a text in UTF-8",
        lambda chapter: (chapter / "1-2.trans.txt").write_bytes(b"1-2-0000 \xff\n"),
    ),
    (
        "no transcripts",
        "no utterance in it; expected SPEAKER/CHAPTER",
        lambda chapter: (chapter / "1-2.trans.txt").unlink(),
    ),
    ("an empty folder", "no utterance in it; expected SPEAKER/CHAPTER", remove),
    ("the folder above", "no subset 'train' in", lambda chapter: remove(chapter.parents[1])),
]

IDS = [
    ("ids: empty", b"", r"ids\.txt: it is empty"),
    ("ids: unknown", b"9-9-0000", r"ids\.txt: utterance '9-9-0000' is not in"),
    ("ids: not in UTF-8", b"\xff\xfe", r"ids\.txt: not a text in UTF-8"),
]
