"""What the corpus promises, checked on the recipe."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.build.synthetic.recipe import HELD_OUT_SUBSETS, Item, held_out_items, training_items
from experiments.build.synthetic.voices import KOKORO_HELD_OUT, KOKORO_TRAINING

CONFIG = OmegaConf.load(Path(__file__).parents[4] / "conf" / "corpus.yaml")


@cache
def held_out() -> dict[str, list[Item]]:
    return held_out_items(CONFIG.utterances, CONFIG.seed)


@cache
def training() -> dict[str, list[Item]]:
    return training_items(CONFIG.hours, CONFIG.utterances, CONFIG.seed)


def everything() -> list[Item]:
    return [item for items in (*held_out().values(), *training().values()) for item in items]


def test_the_sets_have_their_sizes() -> None:
    assert {subset: len(items) for subset, items in held_out().items()} == dict(CONFIG.utterances)
    assert len(held_out()["proxy-pool"]) >= 320
    assert len(held_out()["dev"]) >= 220
    assert len(held_out()["test"]) >= 520
    assert sum(CONFIG.hours.values()) >= 12.3
    assert CONFIG.hours.kokoro + CONFIG.hours.piper >= 3.15  # the neural voices
    assert CONFIG.hours.espeak <= 2.0


def test_no_sentence_is_said_twice() -> None:
    texts = [item.text for item in everything()]
    assert len(set(texts)) == len(texts)


def test_held_out_voices_are_in_no_training_mix() -> None:
    heard = {name for items in training().values() for item in items for name, _ in item.voice.weights}
    unheard = {name for items in held_out().values() for item in items for name, _ in item.voice.weights}
    assert unheard == set(KOKORO_HELD_OUT)
    assert not heard & unheard
    assert set(KOKORO_TRAINING) < heard
    assert sorted(name[:2] for name in KOKORO_HELD_OUT) == ["af", "af", "am", "am", "bf", "bf", "bm", "bm"]
    assert len(KOKORO_TRAINING) == 20


def test_there_are_many_voices_and_each_has_one_number() -> None:
    voices = {item.voice for item in everything()}
    assert len({voice.speaker for voice in voices}) == len(voices)
    assert len({item.voice for items in training().values() for item in items}) >= 25
    assert len({item.voice for engine in ("flite", "festival", "espeak") for item in training()[engine]}) >= 12
    assert all(sum(share for _, share in voice.weights) == pytest.approx(1.0) for voice in voices)


def test_ids_are_librispeechs() -> None:
    items = everything()
    assert len({item.id for item in items}) == len(items)
    chapters: dict[str, str] = {}
    for item in items:
        match = re.fullmatch(r"(\d+)-(\d+)-(\d{4})", item.id)
        assert match is not None
        speaker, chapter, _ = match.groups()
        assert int(speaker) == item.voice.speaker
        assert chapters.setdefault(chapter, f"{item.subset}/{speaker}") == f"{item.subset}/{speaker}"
        assert item.path == f"{item.subset}/{speaker}/{chapter}/{item.id}.flac"


@pytest.mark.parametrize("subset", HELD_OUT_SUBSETS)
def test_a_third_of_each_held_out_set_is_disturbed(subset: str) -> None:
    conditions = [item.condition for item in held_out()[subset] if item.condition is not None]
    assert len(conditions) == len(held_out()[subset]) // 3
    for condition in conditions:
        assert (condition.rt60 is None) != (condition.noise is None)
        assert condition.rt60 is None or 0.2 <= condition.rt60 <= 0.7
        assert condition.snr_db is None or 5.0 <= condition.snr_db <= 20.0
        assert (condition.noise == "babble") == bool(condition.babble)
    assert {condition.noise for condition in conditions} == {None, "white", "pink", "brown", "hum", "babble"}


def test_training_is_stored_clean() -> None:
    assert all(item.condition is None for items in training().values() for item in items)


def test_the_recipe_follows_from_the_seed() -> None:
    counts = {"proxy-pool": 20, "dev": 20, "test": 20}
    one, same, other = (held_out_items(counts, seed) for seed in (1, 1, 2))
    assert one == same
    assert [item.digest for item in one["test"]] == [item.digest for item in same["test"]]
    assert {item.text for item in one["test"]} != {item.text for item in other["test"]}


def test_more_hours_keep_the_utterances_of_fewer() -> None:
    counts = {"proxy-pool": 5, "dev": 5, "test": 5}
    few, many = (training_items({"piper": hours}, counts, 3)["piper"] for hours in (0.05, 0.1))
    assert many[: len(few)] == few


def test_unknown_engines_and_sets_are_named() -> None:
    with pytest.raises(ValueError, match="sing"):
        training_items({"sing": 1.0}, {"proxy-pool": 1, "dev": 1, "test": 1}, 0)
    with pytest.raises(ValueError, match="proxy-pool"):
        held_out_items({"dev": 3}, 0)


def test_the_manifests_line() -> None:
    item = next(item for item in held_out()["test"] if len(item.voice.weights) == 2 and item.condition is not None)
    record = item.record(1.23456)
    assert list(record) == ["id", "engine", "voice", "speed", "condition", "duration", "text"]
    assert record["voice"] == dict(item.voice.weights)
    assert record["duration"] == 1.235
