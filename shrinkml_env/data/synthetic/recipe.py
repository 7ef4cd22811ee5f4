"""What is said, by whom, how fast and under which condition: the whole corpus as a list, before any sound exists.

Everything follows from one seed. Each utterance's own random numbers come from a hash of its id, so it sounds the same
whatever else is synthesised, in any order.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from shrinkml_env.data.synthetic.conditions import NOISE_KINDS
from shrinkml_env.data.synthetic.grammar import sentences
from shrinkml_env.data.synthetic.voices import (
    Voice,
    espeak_voices,
    festival_voices,
    flite_voices,
    held_out_voices,
    kokoro_training_voices,
    piper_voices,
)

__all__ = ["HELD_OUT_SUBSETS", "SUBSETS", "Condition", "Item", "derive_seed", "held_out_items", "training_items"]

HELD_OUT_SUBSETS = ("proxy-pool", "dev", "test")
SUBSETS = (*HELD_OUT_SUBSETS, "train")
_CHAPTER_LENGTH = 50
_SPEEDS = (0.85, 1.12, 1.25)
# Planned before it is known how long the engines take: more sentences an hour than any engine can say.
_SENTENCES_PER_HOUR = 1600
_BABBLE_TALKERS = 4


@dataclass(frozen=True, slots=True)
class Condition:
    """What disturbs an utterance: noise at a signal-to-noise ratio, or a room.

    Attributes:
        noise: A kind of `NOISE_KINDS` or ``"babble"``; None for a room.
        snr_db: Signal-to-noise ratio, 5 to 20 dB.
        rt60: Reverberation time, 0.2 to 0.7 s.
        babble: What the talkers of babble say, training sentences in training voices.
    """

    noise: str | None = None
    snr_db: float | None = None
    rt60: float | None = None
    babble: tuple[str, ...] = ()

    def record(self) -> dict[str, str | float]:
        """What the manifest says of it: ``{noise, snr_db}`` or ``{rt60}``."""
        fields = {"noise": self.noise, "snr_db": self.snr_db, "rt60": self.rt60}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Item:
    """One utterance to synthesise.

    Attributes:
        subset: One of `SUBSETS`.
        id: ``SPEAKER-CHAPTER-NUMBER`` as in LibriSpeech, unique in the corpus.
        text: Lower case, as spoken.
        voice: Who speaks.
        speed: 0.85 to 1.25 times the voice's own pace.
        pause: Whether spelled letters are set apart by pauses.
        condition: None for clean speech.
    """

    subset: str
    id: str
    text: str
    voice: Voice
    speed: float
    pause: bool
    condition: Condition | None = None

    @property
    def path(self) -> str:
        """The FLAC file, relative to the corpus's root."""
        speaker, chapter, _ = self.id.split("-")
        return f"{self.subset}/{speaker}/{chapter}/{self.id}.flac"

    @property
    def seed(self) -> int:
        """Of this utterance's own random numbers."""
        return derive_seed(0, self.id)

    @property
    def digest(self) -> str:
        """Hash of everything that the waveform depends on: an audio file that carries another one is outdated."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    @property
    def expected_seconds(self) -> float:
        """A guess at its duration, for the progress bar."""
        return 0.4 + 0.31 * len(self.text.split()) / self.speed

    def record(self, duration: float) -> dict[str, object]:
        """Its line of the manifest, given its duration in seconds."""
        return {
            "id": self.id,
            "engine": self.voice.engine,
            "voice": self.voice.label,
            "speed": self.speed,
            "condition": None if self.condition is None else self.condition.record(),
            "duration": round(duration, 3),
            "text": self.text,
        }


def derive_seed(seed: int, *names: str) -> int:
    """An independent seed (31 bits) for a named purpose."""
    return int.from_bytes(hashlib.sha256("/".join((str(seed), *names)).encode()).digest()[:4], "big") >> 1


def held_out_items(counts: Mapping[str, int], seed: int) -> dict[str, list[Item]]:
    """The proxy pool, dev and test: voices and sentences that training never has, a third of them disturbed.

    Args:
        counts: Utterances of each of `HELD_OUT_SUBSETS`.
        seed: The corpus's.

    Returns:
        Subset name to its utterances. No sentence is in two subsets.
    """
    items = {}
    for subset, texts in _held_out_sentences(counts, seed).items():
        rng = np.random.default_rng(derive_seed(seed, subset, "conditions"))
        talk = sentences(len(texts) * _BABBLE_TALKERS, derive_seed(seed, "babble"), _flatten(counts, seed))
        conditions = (
            _condition(rng, talk[index * _BABBLE_TALKERS :][:_BABBLE_TALKERS]) if index % 3 == 2 else None
            for index in range(len(texts))
        )
        items[subset] = list(_cast(subset, texts, held_out_voices(), seed, conditions))
    return items


def training_items(hours: Mapping[str, float], counts: Mapping[str, int], seed: int) -> dict[str, list[Item]]:
    """More than enough clean training utterances of each engine, for `hours` of them to be taken from the front.

    Args:
        hours: Engine name to the hours of speech wanted.
        counts: As for `held_out_items`, whose sentences are left out here.
        seed: The corpus's.

    Returns:
        Engine name to its utterances, in the order of `hours`. No sentence is said twice.
    """
    voices = {
        "kokoro": kokoro_training_voices(derive_seed(seed, "mixes")),
        "piper": piper_voices(),
        "flite": flite_voices(),
        "festival": festival_voices(),
        "espeak": espeak_voices(),
    }
    unknown = sorted(set(hours) - set(voices))
    if unknown:
        raise ValueError(f"unknown engines in the training hours: {unknown}; choose from {', '.join(voices)}")
    shares = {engine: int(wanted * _SENTENCES_PER_HOUR) + 1 for engine, wanted in hours.items() if wanted > 0}
    pool = iter(sentences(sum(shares.values()), derive_seed(seed, "train"), _flatten(counts, seed)))
    return {
        engine: list(_cast("train", [next(pool) for _ in range(share)], voices[engine], seed))
        for engine, share in shares.items()
    }


def _held_out_sentences(counts: Mapping[str, int], seed: int) -> dict[str, list[str]]:
    if set(counts) != set(HELD_OUT_SUBSETS):
        raise ValueError(f"the utterance counts must name {', '.join(HELD_OUT_SUBSETS)}, not {sorted(counts)}")
    drawn: dict[str, list[str]] = {}
    taken: set[str] = set()
    for subset in HELD_OUT_SUBSETS:
        drawn[subset] = sentences(counts[subset], derive_seed(seed, subset), taken)
        taken.update(drawn[subset])
    return drawn


def _flatten(counts: Mapping[str, int], seed: int) -> set[str]:
    return {text for texts in _held_out_sentences(counts, seed).values() for text in texts}


def _cast(
    subset: str,
    texts: Sequence[str],
    voices: Sequence[Voice],
    seed: int,
    conditions: Iterator[Condition | None] | None = None,
) -> Iterator[Item]:
    """Give every sentence a voice, a speed and an id; each round through the voices has a new order."""
    rng = np.random.default_rng(derive_seed(seed, subset, voices[0].engine))
    said: Counter[int] = Counter()
    order: list[int] = []
    for text in texts:
        order = order or rng.permutation(len(voices)).tolist()
        voice = voices[order.pop()]
        number = said[voice.speaker]
        said[voice.speaker] += 1
        # Chapter numbers are unique in the corpus, as LibriSpeech's are.
        chapter = (SUBSETS.index(subset) + 1) * 100_000 + voice.speaker * 100 + number // _CHAPTER_LENGTH
        yield Item(
            subset=subset,
            id=f"{voice.speaker}-{chapter}-{number % _CHAPTER_LENGTH:04d}",
            text=text,
            voice=voice,
            speed=round(float(rng.triangular(*_SPEEDS)), 3),
            pause=bool(rng.random() < 0.5),
            condition=next(conditions) if conditions is not None else None,
        )


def _condition(rng: np.random.Generator, talk: Sequence[str]) -> Condition:
    """Noise for three of five, a room for the others."""
    if rng.random() < 0.4:
        return Condition(rt60=round(float(rng.uniform(0.2, 0.7)), 2))
    noise = str(rng.choice([*NOISE_KINDS, "babble"]))
    snr_db = round(float(rng.uniform(5.0, 20.0)), 1)
    return Condition(noise, snr_db, babble=tuple(talk) if noise == "babble" else ())
