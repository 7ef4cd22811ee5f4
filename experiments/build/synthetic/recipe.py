"""The recipe of the corpus: text, voice, speed and condition of every utterance, before synthesis.

One seed determines everything. The random numbers of an utterance's synthesis are seeded by a hash of its id, so that
its audio does not depend on other utterances or on the order of synthesis.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from experiments.build.synthetic.grammar import sentences
from experiments.build.synthetic.voices import (
    Voice,
    espeak_voices,
    festival_voices,
    flite_voices,
    held_out_voices,
    kokoro_training_voices,
    piper_voices,
)
from shrinkml_env.data.conditions import NOISE_KINDS

__all__ = ["HELD_OUT_SUBSETS", "SUBSETS", "Condition", "Item", "derive_seed", "held_out_items", "training_items"]

HELD_OUT_SUBSETS = ("proxy-pool", "dev", "test")
SUBSETS = (*HELD_OUT_SUBSETS, "train")
_CHAPTER_LENGTH = 50
_SPEEDS = (0.85, 1.12, 1.25)
# The number of sentences planned for an hour, above that of the fastest engine.
_SENTENCES_PER_HOUR = 1600
_BABBLE_TALKERS = 4


@dataclass(frozen=True, slots=True)
class Condition:
    """The acoustic condition of an utterance: noise at a signal-to-noise ratio, or reverberation.

    Attributes:
        noise: A kind of `NOISE_KINDS` or ``"babble"``; None for reverberation.
        snr_db: Signal-to-noise ratio, 5 to 20 dB; None for reverberation.
        rt60: Reverberation time, 0.2 to 0.7 s; None for noise.
        babble: The sentences of babble's talkers, which no held-out set contains.
    """

    noise: str | None = None
    snr_db: float | None = None
    rt60: float | None = None
    babble: tuple[str, ...] = ()

    def record(self) -> dict[str, str | float]:
        """Return the manifest's entry: ``{noise, snr_db}`` or ``{rt60}``."""
        fields = {"noise": self.noise, "snr_db": self.snr_db, "rt60": self.rt60}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Item:
    """One utterance to synthesise.

    Attributes:
        subset: One of `SUBSETS`.
        id: ``SPEAKER-CHAPTER-NUMBER`` as in LibriSpeech, unique in the corpus.
        text: Text in spoken form, lower case.
        voice: The speaker.
        speed: Speed relative to the voice's own, 0.85 to 1.25.
        pause: Whether spelled letters are separated by pauses.
        condition: Noise or reverberation; None for clean speech.
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
        """The seed of the random numbers of this utterance's synthesis."""
        return derive_seed(0, self.id)

    @property
    def digest(self) -> str:
        """The hash of everything that the waveform depends on; an audio file with another digest is outdated."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    @property
    def expected_seconds(self) -> float:
        """An estimate of the duration in seconds, for the progress bar."""
        return 0.4 + 0.31 * len(self.text.split()) / self.speed

    def record(self, duration: float) -> dict[str, object]:
        """Return the utterance's entry in the manifest, given its duration in seconds."""
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
    """Return an independent seed (31 bits) for a named purpose."""
    return int.from_bytes(hashlib.sha256("/".join((str(seed), *names)).encode()).digest()[:4], "big") >> 1


def held_out_items(counts: Mapping[str, int], seed: int) -> dict[str, list[Item]]:
    """Return the utterances of the proxy pool, dev and test, a third of them with noise or reverberation.

    Their voices and sentences do not occur in training.

    Args:
        counts: Number of utterances of each of `HELD_OUT_SUBSETS`.
        seed: Seed of the corpus.

    Returns:
        Subset name -> its utterances. No sentence is in two subsets.
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
    """Return clean training utterances of each engine, more than are needed for the hours of speech.

    Args:
        hours: Engine name -> hours of speech.
        counts: Number of utterances of each of `HELD_OUT_SUBSETS`, whose sentences are excluded.
        seed: Seed of the corpus.

    Returns:
        Engine name -> its utterances, in the order of `hours`. No sentence occurs twice.

    Raises:
        ValueError: An engine is unknown.
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
    """Assign a voice, a speed and an id to every sentence; the voices take turns in a new random order every round."""
    rng = np.random.default_rng(derive_seed(seed, subset, voices[0].engine))
    said: Counter[int] = Counter()
    order: list[int] = []
    for text in texts:
        order = order or rng.permutation(len(voices)).tolist()
        voice = voices[order.pop()]
        number = said[voice.speaker]
        said[voice.speaker] += 1
        # Chapter numbers are unique in the corpus, as in LibriSpeech.
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
    """Draw a condition: noise with a probability of 0.6, otherwise reverberation."""
    if rng.random() < 0.4:
        return Condition(rt60=round(float(rng.uniform(0.2, 0.7)), 2))
    noise = str(rng.choice([*NOISE_KINDS, "babble"]))
    snr_db = round(float(rng.uniform(5.0, 20.0)), 1)
    return Condition(noise, snr_db, babble=tuple(talk) if noise == "babble" else ())
