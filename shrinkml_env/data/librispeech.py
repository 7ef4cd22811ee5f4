"""Speech in LibriSpeech's directory layout, read lazily.

``ROOT/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac`` (or ``.wav``) beside one ``SPEAKER-CHAPTER.trans.txt`` a
chapter, whose lines are an utterance's id and its text (Panayotov et al. 2015, https://www.openslr.org/12).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import overload

import numpy as np
import soundfile
import torch

from shrinkml_env.data.torchaudio_compat import import_torchaudio
from shrinkml_env.data.utterance import SAMPLE_RATE, Utterance

__all__ = ["SpeechFolder", "download_librispeech", "read_waveform"]


AUDIO = (".flac", ".wav")
"""Suffixes of audio files."""


def read_waveform(path: str | Path) -> torch.Tensor:
    """Samples of a mono 16 kHz audio file: float32 in [-1, 1], shape (samples,).

    Raises:
        ValueError: The file cannot be decoded to its end, is empty, holds NaN or infinity, or has another sampling rate
            or several channels.
    """
    _num_samples(path)
    try:
        samples, _ = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: not a readable audio file ({error})") from error
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: holds samples that are NaN or infinite: write or record it again")
    return torch.from_numpy(samples)


def _num_samples(path: str | Path) -> int:
    """Length from the file's header, which must be that of mono audio at 16 kHz, and not be 0."""
    try:
        header = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: not a readable audio file ({error})") from error
    if header.samplerate != SAMPLE_RATE or header.channels != 1:
        raise ValueError(
            f"{path}: needs mono audio at {SAMPLE_RATE} Hz, has {header.channels} channel(s) at {header.samplerate} Hz;"
            f" ffmpeg -i IN -ac 1 -ar {SAMPLE_RATE} OUT makes it so"
        )
    if header.frames < 1:
        raise ValueError(f"{path}: holds no sample: remove it, and its line in the transcript")
    return int(header.frames)


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    speaker: str
    path: str
    text: str


class SpeechFolder(Sequence[Utterance]):
    """The utterances of one subset or several, sorted by id, each read from disk when it is asked for.

    Args:
        root: The folder that holds the subset, or the parent of a folder ``LibriSpeech`` that does.
        subset: Name of the subset's folder, ``"test-other"``, or several names, whose utterances are put together.
        limit: Keep only this many utterances, taken round-robin over the speakers (None: all).
        ids: A text file with the ids of the utterances to keep, one a line (None: all).

    Raises:
        FileNotFoundError: The folder, the file of ids or a listed audio file is missing.
        ValueError: A transcript is malformed, an audio file has none, an id occurs twice, the subset holds no
            utterance, or lacks one of the ids.

    Attributes:
        folder: Of the subset, the first if there are several.
    """

    def __init__(
        self, root: str | Path, subset: str | Sequence[str], limit: int | None = None, ids: str | Path | None = None
    ) -> None:
        subsets = [subset] if isinstance(subset, str) else subset
        found: dict[str, _Entry] = {}
        folders = [_subset_folder(Path(root), name) for name in subsets]
        self.folder = folders[0]
        for folder in folders:
            for entry in _entries(folder):
                if entry.id in found:
                    raise ValueError(f"{entry.path}: {found[entry.id].path} has the same id; ids must be unique")
                found[entry.id] = entry
        entries = [found[name] for name in sorted(found)]
        where = f"{root}: {', '.join(subsets)}"
        if ids is not None:
            wanted = set(Path(ids).read_text(encoding="utf-8").split())
            missing = wanted - found.keys()
            if missing or not wanted:
                named = f"utterance {min(missing)!r} is not in {where}" if missing else "it is empty"
                raise ValueError(f"{ids}: {named}")
            entries = [entry for entry in entries if entry.id in wanted]
        if limit is not None:
            if limit < 1:
                raise ValueError(f"limit must be at least 1, got {limit}")
            entries = sorted(_round_robin(entries)[:limit], key=lambda entry: entry.id)
        self._entries = tuple(entries)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Utterance, ...]: ...
    def __getitem__(self, index: int | slice) -> Utterance | tuple[Utterance, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        entry = self._entries[index]
        return Utterance(id=entry.id, speaker=entry.speaker, waveform=read_waveform(entry.path), text=entry.text)

    def __iter__(self) -> Iterator[Utterance]:
        return (self[index] for index in range(len(self)))

    @property
    def ids(self) -> tuple[str, ...]:
        """The utterances' ids, without reading any audio."""
        return tuple(entry.id for entry in self._entries)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Who speaks each utterance, without reading any audio."""
        return tuple(entry.speaker for entry in self._entries)

    @property
    def texts(self) -> tuple[str, ...]:
        """The transcripts, without reading any audio."""
        return tuple(entry.text for entry in self._entries)

    @cached_property
    def num_samples(self) -> tuple[int, ...]:
        """Length of each utterance in samples, from the files' headers.

        Raises:
            ValueError: A file is not mono audio at 16 kHz.
        """
        return tuple(_num_samples(entry.path) for entry in self._entries)


def download_librispeech(root: str | Path, subset: str | Sequence[str]) -> None:
    """Fetch and unpack LibriSpeech's own subsets into ``root/LibriSpeech``, through torchaudio's data set class.

    What is there already is not fetched again. Needs a network.

    Raises:
        ValueError: LibriSpeech has no such subset.
        OSError: One cannot be fetched.
    """
    for name in [subset] if isinstance(subset, str) else subset:
        if _find_subset(Path(root), name) is not None:
            continue
        Path(root).mkdir(parents=True, exist_ok=True)
        try:
            import_torchaudio().datasets.LIBRISPEECH(str(root), url=name, download=True)
        except OSError as error:
            raise OSError(f"LibriSpeech's {name} cannot be fetched into {root}: {error}") from error


def _find_subset(root: Path, subset: str) -> Path | None:
    return next((folder for folder in (root / subset, root / "LibriSpeech" / subset) if folder.is_dir()), None)


def _subset_folder(root: Path, subset: str) -> Path:
    folder = _find_subset(root, subset)
    if folder is not None:
        return folder
    raise FileNotFoundError(
        f"no subset {subset!r} in {root} or {root / 'LibriSpeech'}: give the folder that holds LibriSpeech's subsets, "
        "or its parent"
    )


def _entries(folder: Path) -> Iterator[_Entry]:
    chapters = sorted(folder.glob("*/*/"))
    if not any(True for chapter in chapters for _ in chapter.glob("*.trans.txt")):
        inner = sorted({transcript.parents[2].name for transcript in folder.glob("*/*/*/*.trans.txt")})
        hint = f"; did you mean one of {', '.join(inner)} in it?" if inner else ""
        raise ValueError(f"{folder}: no utterance in it; expected SPEAKER/CHAPTER/*.trans.txt and *.flac{hint}")
    for chapter in chapters:
        audio = {path.stem: path for path in chapter.iterdir() if path.suffix in AUDIO and path.name[0] != "."}
        listed: set[str] = set()
        for transcript in sorted(chapter.glob("*.trans.txt")):
            for number, line in enumerate(_lines(transcript), start=1):
                utterance_id, _, text = line.strip().partition(" ")
                if not utterance_id:
                    continue  # an empty line
                if not text:
                    raise ValueError(
                        f"{transcript}, line {number}: expected an utterance id and its text, got {line!r}"
                    )
                if utterance_id in listed:
                    raise ValueError(f"{transcript}, line {number}: {utterance_id!r} is listed twice")
                if utterance_id not in audio:
                    missing = chapter / f"{utterance_id}{AUDIO[0]}"
                    raise FileNotFoundError(f"{missing}: listed in {transcript.name}, line {number}, but missing")
                listed.add(utterance_id)
                yield _Entry(utterance_id, chapter.parent.name, str(audio[utterance_id]), text)
        for name in sorted(audio.keys() - listed):
            raise ValueError(f"{audio[name]}: no *.trans.txt beside it says what is spoken; add a line or remove it")


def _lines(transcript: Path) -> list[str]:
    try:
        return transcript.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{transcript}: not a text in UTF-8 ({error})") from error


def _round_robin(entries: Sequence[_Entry]) -> list[_Entry]:
    speakers: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        speakers[entry.speaker].append(entry)
    return [entry for entry in chain.from_iterable(zip_longest(*speakers.values())) if entry is not None]
