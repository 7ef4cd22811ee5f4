"""Synthesis of the corpus: from the recipe to files in LibriSpeech's layout, by several processes, resumable.

An audio file gets its name only when it is complete, and its comment holds the digest of its recipe; a later run keeps
the files whose digest is unchanged. Transcripts and the manifest are written from the recipe.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import torch

from experiments.build.synthetic.assets import Assets
from experiments.build.synthetic.engines import Engine, Samples, finish, load_engine, punctuate
from experiments.build.synthetic.recipe import Item
from experiments.build.synthetic.voices import Voice, flite_voices
from shrinkml_env.data.conditions import (
    add_noise,
    babble,
    reverberate,
    room_impulse_response,
    synthetic_noise,
)
from shrinkml_env.data.utterance import SAMPLE_RATE

__all__ = ["MANIFEST", "focus", "remove_others", "render", "synthesise", "write_index"]

MANIFEST: Final = "manifest.jsonl"
NEURAL_ENGINES: Final = ("kokoro", "piper")
_PARTIAL: Final = ".part"
_FEW: Final = (12, 20, 30, 40, 60)
_PEAK: Final = 0.95


def synthesise(
    items: Sequence[Item],
    root: Path,
    assets: Assets,
    workers: int,
    hours: float | None = None,
    progress: Callable[[Item], None] = lambda item: None,
) -> list[tuple[Item, float]]:
    """Synthesise the audio of the items, in their order, until there are enough hours.

    The number of items kept depends only on their durations, not on the number of workers or on interruptions.

    Args:
        items: The items of one subset, in order of preference.
        root: The corpus's folder.
        assets: The neural engines' models.
        workers: Number of processes, each with one thread.
        hours: The amount of speech after which to stop, in hours; None for all items.
        progress: Called for each item when its file is complete.

    Returns:
        The items kept, with their durations in seconds. The files of the other items are removed.

    Raises:
        ValueError: An engine is missing, or all items together are too short.
    """
    kept: list[tuple[Item, float]] = []
    enough = float("inf") if hours is None else hours * 3600.0
    total = 0.0
    # Workers inherit it; the engines' libraries read it when they are loaded.
    os.environ["OMP_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(workers, _start_worker, (root, assets)) as pool:
        for item, duration in zip(items, pool.imap(_make, items), strict=True):
            kept.append((item, duration))
            progress(item)
            total += duration
            if total >= enough:
                break
    for item in items[len(kept) :]:
        (root / item.path).unlink(missing_ok=True)
    for subset in {item.subset for item in items}:
        for partial in (root / subset).rglob(f"*{_PARTIAL}"):
            partial.unlink()
    if hours is not None and total < enough:
        raise ValueError(f"{len(items)} sentences make only {total / 3600.0:.2f} hours, not {hours}: plan more")
    return kept


def write_index(root: Path, kept: Sequence[tuple[Item, float]]) -> None:
    """Write the transcripts of every chapter and the subset's manifest.

    Args:
        root: The corpus's folder.
        kept: All items of one subset, with their durations in seconds.
    """
    chapters: dict[Path, list[Item]] = defaultdict(list)
    for item, _ in kept:
        chapters[(root / item.path).parent].append(item)
    for folder, chapter in chapters.items():
        lines = sorted(f"{item.id} {item.text.upper()}" for item in chapter)
        _replace_text(folder / f"{folder.parent.name}-{folder.name}.trans.txt", lines)
    records = [json.dumps(item.record(duration)) for item, duration in kept]
    _replace_text(root / kept[0][0].subset / MANIFEST, records)


def focus(kept: Sequence[tuple[Item, float]], hours: float) -> list[str]:
    """Return the ids of the speech for training's last stage: the neural engines' utterances, and some for rare words.

    An utterance of the other engines is added if at least two of its words are rare so far. The number of occurrences
    below which a word counts as rare grows from pass to pass, until there are enough hours of these utterances.

    Args:
        kept: The items of the training set, with their durations in seconds.
        hours: Amount of speech to add from the other engines, in hours.
    """
    neural = [item for item, _ in kept if item.voice.engine in NEURAL_ENGINES]
    others = [(item, duration) for item, duration in kept if item.voice.engine not in NEURAL_ENGINES]
    random.Random(0).shuffle(others)
    said = Counter(word for item in neural for word in item.text.split())
    chosen: list[str] = []
    seconds = 0.0
    for few in _FEW:
        rest = []
        for item, duration in others:
            if seconds > 3600.0 * hours:
                break
            if sum(said[word] < few for word in set(item.text.split())) >= 2:
                chosen.append(item.id)
                said.update(item.text.split())
                seconds += duration
            else:
                rest.append((item, duration))
        others = rest
    return sorted([*(item.id for item in neural), *chosen])


def remove_others(root: Path, kept: Sequence[tuple[Item, float]]) -> None:
    """Delete the audio and transcripts of other items, from an older recipe, in the subsets of the kept items."""
    audio = {root / item.path for item, _ in kept}
    chapters = {path.parent for path in audio}
    for folder in {root / item.subset for item, _ in kept}:
        for path in [*folder.rglob("*.flac"), *folder.rglob("*.trans.txt")]:
            if path.parent not in chapters or (path.suffix == ".flac" and path not in audio):
                path.unlink()


def render(item: Item, engine: Callable[[str], Engine]) -> Samples:
    """Synthesise an utterance: ``(samples,)`` float32 at 16 kHz, in [-1, 1].

    Args:
        item: The utterance.
        engine: A function that returns the engine of a name.
    """

    def say(text: str, voice: Voice) -> Samples:
        speech = engine(voice.engine).speak(punctuate(text, item.pause), voice, item.speed, item.seed)
        return finish(*speech)

    waveform = torch.from_numpy(say(item.text, item.voice))
    generator = torch.Generator().manual_seed(item.seed)
    condition = item.condition
    if condition is None:
        return waveform.numpy()
    if condition.rt60 is not None:
        waveform = reverberate(waveform, room_impulse_response(condition.rt60, generator))
    if condition.noise is not None and condition.snr_db is not None:
        if condition.noise == "babble":
            voices = flite_voices()
            talkers = [torch.from_numpy(say(text, voices[index])) for index, text in enumerate(condition.babble)]
            noise = babble(talkers, waveform.numel(), generator)
        else:
            noise = synthetic_noise(condition.noise, waveform.numel(), generator)
        waveform = add_noise(waveform, noise, condition.snr_db)
    return (waveform * min(1.0, _PEAK / waveform.abs().max().item())).numpy()


_root = Path()
_engine: Callable[[str], Engine]


def _start_worker(root: Path, assets: Assets) -> None:
    global _root, _engine
    torch.set_num_threads(1)
    _root = root
    _engine = cache(lambda name: load_engine(name, assets))


def _make(item: Item) -> float:
    """Write an item's file unless it exists already, and return its duration in seconds."""
    path = _root / item.path
    if path.exists():
        with soundfile.SoundFile(path) as file:
            if file.comment == item.digest:
                return float(file.frames / SAMPLE_RATE)
    try:
        waveform = render(item, _engine)
    except ValueError as error:
        raise ValueError(f"{item.id} ({item.voice.engine}, {item.voice.label}, {item.text!r}): {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(_PARTIAL)
    with soundfile.SoundFile(
        partial, "w", SAMPLE_RATE, 1, subtype="PCM_16", format="FLAC", compression_level=1.0
    ) as file:
        file.comment = item.digest
        file.write(np.asarray(waveform))
    os.replace(partial, path)
    return len(waveform) / SAMPLE_RATE


def _replace_text(path: Path, lines: Sequence[str]) -> None:
    partial = path.with_name(path.name + _PARTIAL)
    partial.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    os.replace(partial, path)
