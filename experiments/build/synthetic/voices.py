"""The voices of every engine, for training and held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

__all__ = [
    "KOKORO_HELD_OUT",
    "KOKORO_TRAINING",
    "Voice",
    "espeak_voices",
    "festival_voices",
    "flite_voices",
    "held_out_voices",
    "kokoro_training_voices",
    "piper_voices",
]

KOKORO_HELD_OUT = (
    "af_bella",
    "af_sarah",
    "am_fenrir",
    "am_michael",
    "bf_emma",
    "bf_lily",
    "bm_daniel",
    "bm_george",
)
KOKORO_TRAINING = (
    "af_alloy",
    "af_aoede",
    "af_heart",
    "af_jessica",
    "af_kore",
    "af_nicole",
    "af_nova",
    "af_river",
    "af_sky",
    "am_adam",
    "am_echo",
    "am_eric",
    "am_liam",
    "am_onyx",
    "am_puck",
    "am_santa",
    "bf_alice",
    "bf_isabella",
    "bm_fable",
    "bm_lewis",
)
_TRAINING_MIXES = 40
_FLITE = {"slt": (145, 210), "rms": (80, 125), "awb": (105, 165), "kal16": (85, 130)}
_FESTIVAL = {"kal_diphone": (85, 125), "ked_diphone": (90, 130), "cmu_us_slt_arctic_hts": ()}
_ESPEAK = {
    "en-us": 50,
    "en-us+m3": 40,
    "en-us+f2": 55,
    "en-us+f5": 50,
    "en-gb+m1": 45,
    "en-gb+f4": 55,
    "en-gb-x-rp+m5": 55,
    "en-gb-x-rp+f3": 50,
    "en-gb-scotland+m2": 50,
    "en-029+f1": 60,
}


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker.

    Attributes:
        speaker: Speaker number in the corpus, unique over all engines.
        engine: ``"kokoro"``, ``"piper"``, ``"flite"``, ``"festival"`` or ``"espeak"``.
        weights: Voices of the engine with their shares, which sum to 1; several make a mix (Kokoro only).
        pitch: Mean F0 in Hz (flite, festival) or 0 to 99 (espeak); None for the voice's own.
    """

    speaker: int
    engine: str
    weights: tuple[tuple[str, float], ...]
    pitch: int | None = None

    @property
    def name(self) -> str:
        """The name of the engine's voice; of a mix, the one with the largest share."""
        return max(self.weights, key=lambda item: item[1])[0]

    @property
    def label(self) -> str | Mapping[str, float]:
        """The entry in the manifest: a name, ``NAME@PITCH``, or the names and shares of a mix."""
        if len(self.weights) > 1:
            return dict(self.weights)
        return self.name if self.pitch is None else f"{self.name}@{self.pitch}"


def held_out_voices() -> list[Voice]:
    """Return the Kokoro voices held out from training, each twice, and the even mix of every two of the same accent."""
    single = [Voice(100 + number, "kokoro", ((name, 1.0),)) for number, name in enumerate(KOKORO_HELD_OUT)]
    pairs = [pair for pair in combinations(KOKORO_HELD_OUT, 2) if _same_accent(pair)]
    mixes = [Voice(150 + number, "kokoro", ((a, 0.5), (b, 0.5))) for number, (a, b) in enumerate(pairs)]
    return single * 2 + mixes


def kokoro_training_voices(seed: int) -> list[Voice]:
    """Return the other Kokoro voices, each twice, and mixes of two of them with shares of 30 to 70 %.

    A voice that is listed twice gets twice as many sentences. The seed determines the mixes.
    """
    single = [Voice(200 + number, "kokoro", ((name, 1.0),)) for number, name in enumerate(KOKORO_TRAINING)]
    rng = np.random.default_rng(seed)
    pairs = [pair for pair in combinations(KOKORO_TRAINING, 2) if _same_accent(pair)]
    chosen = rng.choice(len(pairs), _TRAINING_MIXES, replace=False)
    mixes = []
    for number, pair in enumerate(chosen):
        share = round(float(rng.uniform(0.3, 0.7)), 2)
        (a, b) = pairs[pair]
        mixes.append(Voice(250 + number, "kokoro", ((a, share), (b, round(1.0 - share, 2)))))
    return single * 2 + mixes


def piper_voices() -> list[Voice]:
    """Return Piper's voice "joe"."""
    return [Voice(300, "piper", (("en_US-joe-medium", 1.0),))]


def flite_voices() -> list[Voice]:
    """Return Flite's four 16 kHz voices, each twice, and each also at a lower and at a higher pitch."""
    return _pitched("flite", 400, _FLITE)


def festival_voices() -> list[Voice]:
    """Return Festival's two diphone voices and its HTS voice, each twice, and pitch variants of the diphone voices."""
    return _pitched("festival", 500, _FESTIVAL)


def espeak_voices() -> list[Voice]:
    """Return ten voices of espeak-ng, of different accents and timbres."""
    return [
        Voice(600 + number, "espeak", ((name, 1.0),), pitch) for number, (name, pitch) in enumerate(_ESPEAK.items())
    ]


def _pitched(engine: str, first: int, pitches: Mapping[str, Sequence[int]]) -> list[Voice]:
    variants: list[tuple[str, int | None]] = [(name, None) for name in pitches]
    variants += [(name, pitch) for name, own in pitches.items() for pitch in own]
    voices = [Voice(first + number, engine, ((name, 1.0),), pitch) for number, (name, pitch) in enumerate(variants)]
    return voices[: len(pitches)] + voices


def _same_accent(pair: tuple[str, str]) -> bool:
    return pair[0][0] == pair[1][0]
