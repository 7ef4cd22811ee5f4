"""Writing the corpus: layout, resuming, stopping at the hours wanted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from experiments.build.synthetic.assets import Assets
from experiments.build.synthetic.recipe import Condition, Item, training_items
from experiments.build.synthetic.rendering import MANIFEST, focus, remove_others, render, synthesise, write_index
from experiments.build.synthetic.voices import Voice

NO_ASSETS = Assets(Path("absent"), Path("absent"), Path("absent"))


class Whistle:
    """Speaks every text as a tone, so that conditions can be seen apart from speech."""

    def speak(self, text: str, voice: Voice, speed: float, seed: int) -> tuple[NDArray[np.float32], int]:
        return np.sin(2 * np.pi * 500 * np.arange(16_000) / 16_000).astype(np.float32), 16_000


def flite_items() -> list[Item]:
    return training_items({"flite": 0.004}, {"proxy-pool": 1, "dev": 1, "test": 1}, 0)["flite"]


@pytest.mark.parametrize(
    "condition",
    [Condition(rt60=0.4), Condition("pink", 5.0), Condition("babble", 10.0, babble=("one two three", "four five six"))],
)
def test_conditions_are_fixed_and_audible(condition: Condition) -> None:
    clean = flite_items()[0]
    disturbed = Item(clean.subset, clean.id, clean.text, clean.voice, clean.speed, clean.pause, condition)
    plain, once, again = (render(item, lambda name: Whistle()) for item in (clean, disturbed, disturbed))
    np.testing.assert_array_equal(once, again)
    assert once.shape == plain.shape
    assert np.abs(once).max() <= 0.95 + 1e-6
    assert np.abs(once - plain).max() > 0.01


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_a_corpus_is_written_resumed_and_cut_to_its_hours(tmp_path: Path) -> None:
    items = flite_items()
    kept = synthesise(items, tmp_path, NO_ASSETS, workers=2, hours=0.003)
    write_index(tmp_path, kept)
    total = sum(duration for _, duration in kept)
    assert 0.003 * 3600 <= total < 0.003 * 3600 + kept[-1][1]
    assert len(kept) < len(items)

    files = sorted(tmp_path.rglob("*.flac"))
    assert [path.relative_to(tmp_path).as_posix() for path in files] == sorted(item.path for item, _ in kept)
    for item, duration in kept:
        info = soundfile.info(tmp_path / item.path)
        assert (info.samplerate, info.channels, info.subtype, info.format) == (16_000, 1, "PCM_16", "FLAC")
        assert info.duration == pytest.approx(duration)
    transcripts: dict[str, str] = {}
    for path in tmp_path.rglob("*.trans.txt"):
        assert path.name == f"{path.parent.parent.name}-{path.parent.name}.trans.txt"
        for line in path.read_text().splitlines():
            name, text = line.split(" ", 1)
            transcripts[name] = text
    assert transcripts == {item.id: item.text.upper() for item, _ in kept}
    manifest = [json.loads(line) for line in (tmp_path / "train" / MANIFEST).read_text().splitlines()]
    assert [line["id"] for line in manifest] == [item.id for item, _ in kept]

    # A killed run leaves some files out, one half written, and perhaps one of an older recipe.
    contents = {path: path.read_bytes() for path in files}
    untouched = files[-1].stat().st_mtime_ns
    files[0].unlink()
    files[1].with_suffix(".part").write_bytes(b"half")
    with soundfile.SoundFile(files[1], "w", 16_000, 1, format="FLAC") as outdated:
        outdated.write(np.zeros(100))
    assert synthesise(items, tmp_path, NO_ASSETS, workers=1, hours=0.003) == kept
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.flac")} == contents
    assert files[-1].stat().st_mtime_ns == untouched
    assert not list(tmp_path.rglob("*.part"))

    # What another recipe has left behind, in a chapter of its own and beside what is kept.
    old = tmp_path / "train" / "999" / "99900"
    old.mkdir(parents=True)
    for path in (old / "999-99900-0000.flac", files[0].with_name("400-999-9999.flac")):
        path.write_bytes(contents[files[0]])
    (old / "999-99900.trans.txt").write_text("999-99900-0000 OLD")
    before = {path for path in tmp_path.rglob("*.trans.txt") if path.parent != old}
    remove_others(tmp_path, kept)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.flac")} == contents
    assert set(tmp_path.rglob("*.trans.txt")) == before


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_too_few_sentences_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 sentences make only"):
        synthesise(flite_items()[:1], tmp_path, NO_ASSETS, workers=1, hours=1.0)


def test_the_last_stage_hears_neural_voices_and_rare_words() -> None:
    def item(number: int, engine: str, text: str) -> Item:
        return Item("train", f"1-1-{number:04d}", text, Voice(1, engine, (("voice", 1.0),)), 1.0, False)

    kept = [(item(number, "kokoro", "common words here"), 3.0) for number in range(70)]
    kept += [(item(100, "flite", "rare thing here"), 3.0), (item(101, "flite", "common words again"), 3.0)]
    kept += [(item(200 + number, "espeak", "other rare thing"), 3.0) for number in range(30)]
    ids = focus(kept, 1.0)
    assert ids[:70] == [f"1-1-{number:04d}" for number in range(70)]
    assert "1-1-0100" in ids
    assert "1-1-0101" not in ids  # "common" and "words" are no longer rare
    assert len(ids) == 70 + 31
    # 30 seconds, and the utterance that is over it.
    assert len(focus(kept, 30 / 3600)) == 70 + 11
    assert focus(kept, 1.0) == ids
