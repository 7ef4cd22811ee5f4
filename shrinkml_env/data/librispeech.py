"""Speech in LibriSpeech's directory layout, read lazily.

``ROOT/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac`` beside one ``SPEAKER-CHAPTER.trans.txt`` a chapter, whose
lines are an utterance's id and its text (Panayotov et al. 2015, https://www.openslr.org/12).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import overload

import soundfile
import torch

from shrinkml_env.data.utterance import SAMPLE_RATE, Utterance

__all__ = ["SpeechFolder", "download_librispeech", "read_waveform"]


def read_waveform(path: Path) -> torch.Tensor:
    """Samples of a mono 16 kHz audio file: float32 in [-1, 1], shape (samples,).

    Raises:
        ValueError: The file cannot be decoded, or has another sampling rate or several channels.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: not a readable audio file ({error})") from error
    if rate != SAMPLE_RATE or samples.ndim != 1:
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        raise ValueError(f"{path}: needs mono audio at {SAMPLE_RATE} Hz, has {channels} channel(s) at {rate} Hz")
    return torch.from_numpy(samples)


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    speaker: str
    path: Path
    text: str


class SpeechFolder(Sequence[Utterance]):
    """The utterances of one subset, sorted by id, each read from disk when it is asked for.

    Args:
        root: The folder that holds the subset, or the parent of a folder ``LibriSpeech`` that does.
        subset: Name of the subset's folder, ``"test-other"``.
        limit: Keep only this many utterances, taken round-robin over the speakers (None: all).
        ids: A text file with the ids of the utterances to keep, one a line (None: all).

    Raises:
        FileNotFoundError: The folder, the file of ids or a listed audio file is missing.
        ValueError: A transcript is malformed, the subset holds no utterance, or lacks one of the ids.
    """

    def __init__(self, root: str | Path, subset: str, limit: int | None = None, ids: str | Path | None = None) -> None:
        self.folder = _subset_folder(Path(root), subset)
        entries = sorted(_entries(self.folder), key=lambda entry: entry.id)
        if not entries:
            raise ValueError(f"{self.folder}: no utterance in it; expected SPEAKER/CHAPTER/*.trans.txt and *.flac")
        if ids is not None:
            wanted = set(Path(ids).read_text(encoding="utf-8").split())
            missing = wanted - {entry.id for entry in entries}
            if missing or not wanted:
                named = f"utterance {min(missing)!r} is not in {self.folder}" if missing else "it is empty"
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
    def texts(self) -> tuple[str, ...]:
        """The transcripts, without reading any audio."""
        return tuple(entry.text for entry in self._entries)

    @cached_property
    def num_samples(self) -> tuple[int, ...]:
        """Length of each utterance in samples, from the files' headers."""
        return tuple(soundfile.info(entry.path).frames for entry in self._entries)


def download_librispeech(root: str | Path, subset: str) -> None:
    """Fetch and unpack one of LibriSpeech's own subsets into ``root/LibriSpeech``, through torchaudio's data set class.

    What is there already is not fetched again. Needs a network.
    """
    from shrinkml_env.torchaudio_compat import import_torchaudio

    Path(root).mkdir(parents=True, exist_ok=True)
    import_torchaudio().datasets.LIBRISPEECH(str(root), url=subset, download=True)


def _subset_folder(root: Path, subset: str) -> Path:
    for folder in (root / subset, root / "LibriSpeech" / subset):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"no subset {subset!r} in {root} or {root / 'LibriSpeech'}: give the folder that holds LibriSpeech's subsets, "
        "or its parent"
    )


def _entries(folder: Path) -> Iterator[_Entry]:
    for transcript in folder.glob("*/*/*.trans.txt"):
        for number, line in enumerate(transcript.read_text(encoding="utf-8").splitlines(), start=1):
            utterance_id, _, text = line.strip().partition(" ")
            if not text:
                raise ValueError(f"{transcript}, line {number}: expected an utterance id and its text, got {line!r}")
            path = transcript.parent / f"{utterance_id}.flac"
            if not path.is_file():
                raise FileNotFoundError(f"{path}: listed in {transcript.name} but missing")
            yield _Entry(id=utterance_id, speaker=transcript.parent.parent.name, path=path, text=text)


def _round_robin(entries: Sequence[_Entry]) -> list[_Entry]:
    speakers: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        speakers[entry.speaker].append(entry)
    return [entry for entry in chain.from_iterable(zip_longest(*speakers.values())) if entry is not None]
