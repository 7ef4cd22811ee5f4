"""Speech in LibriSpeech's directory layout, read lazily.

The audio files are ``ROOT/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac`` (or another suffix of `AUDIO`). Each
chapter has one ``SPEAKER-CHAPTER.trans.txt`` beside them, whose lines are an utterance's id and its text (Panayotov et
al. 2015, https://www.openslr.org/12). Hidden files and folders are ignored.
"""

from __future__ import annotations

import struct
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import overload

import soundfile
import torch

from shrinkml_env.checks import whole_number
from shrinkml_env.data.torchaudio_compat import import_torchaudio
from shrinkml_env.data.utterance import SAMPLE_RATE, Utterance, as_waveform

__all__ = ["AUDIO", "SpeechFolder", "download_librispeech", "read_waveform"]


AUDIO = (".flac", ".wav", ".ogg", ".opus", ".mp3")
"""Suffixes of audio files, in upper or lower case, in order of preference if several files have the same name."""

_TRANSCRIPT = ".trans.txt"

_STREAMED = 0x7FFF0000
"""The length, in bytes, from which a WAV header is taken to hold a placeholder: programs that write to a pipe do not
know the length."""

_ENDLESS = 2**40
"""A number of samples above that of any file: libsndfile returns such numbers if the header holds no length."""


def read_waveform(path: str | Path) -> torch.Tensor:
    """Return the samples of a mono 16 kHz audio file: float32 with full scale at 1, shape (samples,).

    Raises:
        ValueError: The file cannot be decoded, is shorter than its header says, is empty, holds NaN, infinity or floats
            at the scale of int16, or has another sampling rate or several channels.
    """
    promised = _num_samples(path)
    try:
        samples, _ = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: not a readable audio file ({error})") from error
    if len(samples) < promised:
        raise ValueError(f"{path}: cut off after {len(samples)} of {promised} samples: copy or record it again")
    return as_waveform(samples, str(path))


def _num_samples(path: str | Path) -> int:
    """Return the number of samples in a file's header, after checking rate, channels and, for WAV, the file's size."""
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
    if header.frames > _ENDLESS:
        raise ValueError(f"{path}: its header does not give its length; ffmpeg -i IN OUT makes it")
    missing = _missing_bytes(path)
    if missing > 0:
        raise ValueError(f"{path}: cut off, {missing} bytes of its samples are missing: copy or record it again")
    return int(header.frames)


def _missing_bytes(path: str | Path) -> int:
    """Return the number of bytes that a WAV is shorter than its header says, which libsndfile does not report.

    It is 0 for other formats, for which the decoder reports it, and for a WAV whose header holds a placeholder.
    """
    with open(path, "rb") as file:
        if file.read(4) not in (b"RIFF", b"RF64"):
            return 0
        file.seek(12)
        length = None
        while len(header := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", header)
            start = file.tell()
            if name == b"ds64":  # RF64's 64-bit lengths: of the file, then of the samples
                (length,) = struct.unpack("<8xQ", file.read(16))
            if name == b"data":
                if length is None and size >= _STREAMED:
                    return 0
                promised = int(size if length is None else length)
                return max(0, promised - (file.seek(0, 2) - start))
            file.seek(start + size + size % 2)
    return 0


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    speaker: str
    path: str
    text: str


class SpeechFolder(Sequence[Utterance]):
    """The utterances of one or several subsets, sorted by id; each is read from disk when it is accessed.

    Args:
        root: The folder that contains the subset, or the parent of a folder ``LibriSpeech`` that contains it.
        subset: Name of the subset's folder, such as ``"test-other"``, or several names, whose utterances are merged.
        limit: The number of utterances to keep, taken round-robin over the speakers; None keeps all.
        ids: The ids of the utterances to keep, or a text file that lists them, one a line; None keeps all.

    Raises:
        FileNotFoundError: The folder, the file of ids or a listed audio file is missing.
        ValueError: A transcript is malformed, an audio file has no transcript, an id occurs twice, the subset contains
            no utterance, or lacks one of the ids.

    Attributes:
        folder: The folder of the first subset.
    """

    def __init__(
        self,
        root: str | Path,
        subset: str | Sequence[str],
        limit: int | None = None,
        ids: str | Path | Sequence[str] | None = None,
    ) -> None:
        limit = None if limit is None else whole_number("limit", limit, least=1)
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
            source = ids if isinstance(ids, str | Path) else "ids"
            wanted = {_composed(name) for name in (_listed(Path(ids)) if isinstance(ids, str | Path) else ids)}
            missing = wanted - found.keys()
            if missing or not wanted:
                named = f"utterance {min(missing)!r} is not in {where}" if missing else "it is empty"
                raise ValueError(f"{source}: {named}")
            entries = [entry for entry in entries if entry.id in wanted]
        if limit is not None:
            kept = _round_robin(entries)[:limit]
            entries = sorted(kept, key=lambda entry: entry.id)
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
        """The speaker of each utterance, without reading any audio."""
        return tuple(entry.speaker for entry in self._entries)

    @property
    def texts(self) -> tuple[str, ...]:
        """The transcripts, without reading any audio."""
        return tuple(entry.text for entry in self._entries)

    @cached_property
    def num_samples(self) -> tuple[int, ...]:
        """The length of each utterance in samples, from the files' headers.

        Raises:
            ValueError: A file is not mono audio at 16 kHz.
        """
        return tuple(_num_samples(entry.path) for entry in self._entries)


def _listed(path: Path) -> list[str]:
    """Return the ids in a file."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file of ids; ids: null takes all utterances")
    return _read_text(path).split()


def download_librispeech(root: str | Path, subset: str | Sequence[str]) -> None:
    """Download and unpack subsets of LibriSpeech into ``root/LibriSpeech``, through torchaudio's data set class.

    Subsets that exist already are not downloaded again. A subset appears only when it is complete.

    Raises:
        ValueError: LibriSpeech has no such subset.
        OSError: A subset cannot be downloaded.
    """
    for name in [subset] if isinstance(subset, str) else subset:
        if _find_subset(Path(root), name) is not None:
            continue
        Path(root).mkdir(parents=True, exist_ok=True)
        try:
            with TemporaryDirectory(dir=root, prefix=".unpacking-") as aside:
                import_torchaudio().datasets.LIBRISPEECH(aside, url=name, download=True)
                complete = Path(root) / "LibriSpeech"
                complete.mkdir(exist_ok=True)
                (Path(aside) / "LibriSpeech" / name).rename(complete / name)
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
    chapters = [chapter for speaker in _visible(folder) for chapter in _visible(speaker)]
    if not any(map(_transcripts, chapters)):
        deeper = (inner for chapter in chapters for inner in _visible(chapter) if _transcripts(inner))
        inner = sorted({path.parents[1].name for path in deeper})
        hint = f"; did you mean one of {', '.join(inner)} in it?" if inner else ""
        raise ValueError(f"{folder}: no utterance in it; expected SPEAKER/CHAPTER/*{_TRANSCRIPT} and *.flac{hint}")
    for chapter in chapters:
        yield from _chapter_entries(chapter)


def _chapter_entries(chapter: Path) -> Iterator[_Entry]:
    speaker = _composed(chapter.parent.name)
    audio = _audio(chapter)
    listed: set[str] = set()
    for transcript in _transcripts(chapter):
        for number, line in enumerate(_read_text(transcript).split("\n"), start=1):
            if not line.strip():
                continue
            name, *words = line.split()
            utterance_id = _composed(name)
            if not words:
                raise ValueError(f"{transcript}, line {number}: expected an utterance id and its text, got {line!r}")
            if utterance_id in listed:
                raise ValueError(f"{transcript}, line {number}: {utterance_id!r} is listed twice")
            if utterance_id not in audio:
                raise FileNotFoundError(_missing_audio(chapter, utterance_id, f"{transcript.name}, line {number}"))
            listed.add(utterance_id)
            yield _Entry(utterance_id, speaker, str(audio[utterance_id]), " ".join(words))
    for name in sorted(audio.keys() - listed):
        raise ValueError(f"{audio[name]}: no *{_TRANSCRIPT} beside it says what is spoken; add a line or remove it")


def _composed(name: str) -> str:
    """Return a name in Unicode's NFC; some file systems, such as those of macOS, decompose file names."""
    return unicodedata.normalize("NFC", name)


def _visible(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, sorted, without hidden ones; an empty list if it is a file."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _transcripts(chapter: Path) -> list[Path]:
    return [path for path in _visible(chapter) if path.name.lower().endswith(_TRANSCRIPT)]


def _audio(chapter: Path) -> dict[str, Path]:
    """Return the audio files of a chapter: utterance id -> path."""
    found = [path for path in _visible(chapter) if path.suffix.lower() in AUDIO]
    # The preferred suffix comes last, and overwrites the others.
    found.sort(key=lambda path: AUDIO.index(path.suffix.lower()), reverse=True)
    return {_composed(path.stem): path for path in found}


def _missing_audio(chapter: Path, utterance_id: str, place: str) -> str:
    for path in _visible(chapter):
        if _composed(path.stem) == utterance_id:
            return f"{path}: listed in {place}, but audio is read from {', '.join(AUDIO)}; ffmpeg makes one of another"
    return f"{chapter / utterance_id}{AUDIO[0]}: listed in {place}, but missing"


def _read_text(path: Path) -> str:
    """Read a text file in UTF-8, with lines separated by newlines."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 ({error})") from error


def _round_robin(entries: Sequence[_Entry]) -> list[_Entry]:
    speakers: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        speakers[entry.speaker].append(entry)
    return [entry for entry in chain.from_iterable(zip_longest(*speakers.values())) if entry is not None]
