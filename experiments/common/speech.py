"""The speech for compressing a model: its split into parts, and checks that model and speech fit together."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, open_dict

from shrinkml_env import CompressibleModel, Evaluator, Utterance, load_utterances
from shrinkml_env.asr.text import characters, compose
from shrinkml_env.compression import SVD, require_length
from shrinkml_env.data import SAMPLE_RATE, SpeechFolder
from shrinkml_env.data.split import split, spread
from shrinkml_env.evaluation import count_errors, recognise_all

__all__ = [
    "Speech",
    "calibrate_on",
    "data_folder",
    "divide",
    "embedded_speech",
    "folder_speech",
    "require_recognition",
    "require_spelling",
    "speaker_overlap",
]

HIGHEST_WER = 0.8
"""A WER of the original, a fraction, above which model and transcripts do not fit together."""

SETS = ("proxy", "dev", "test")
"""The embedded sets that are measured."""

CALIBRATED = 72
"""Utterances of a folder that factors and predictions are computed on, by default; and, for the reward of the word
errors, that are searched on."""

SEARCHED = 16
"""Utterances of a folder that are searched on by the divergence, by default: a dozen tell models apart as well as 72 do
by their words."""

CALIBRATIONS = ("calibration", "calibration-large")
"""The embedded sets that parts are calibrated on by default."""


@dataclass(frozen=True, slots=True)
class Speech:
    """Speech for four purposes: calibration for the factors, proxy to search on, dev to choose with, test to report.

    Attributes:
        note: Description of the split, one or more sentences.
        seconds: Purpose -> total duration of its utterances, seconds; not for the embedded calibration sets.
        proxy: The utterances to search on.
        voices: The speakers of test.
        ids: Purpose -> ids of its utterances; empty for the embedded sets.
        folder: The folder of the data; None for the embedded sets.
    """

    note: str
    seconds: Mapping[str, float]
    proxy: Sequence[Utterance]
    voices: Set[str]
    ids: Mapping[str, Sequence[str]]
    folder: Path | None


def embedded_speech(limits: Mapping[str, int | None]) -> Speech:
    """Return the embedded sets.

    Args:
        limits: Purpose -> the largest number of utterances; None for all. That of calibration must be None.

    Raises:
        ValueError: A set has more utterances than its limit, or calibration has one; embedded sets are used whole.
    """
    sets = {name: load_utterances(name) for name in SETS}
    if limits["calibration"] is not None:
        raise ValueError(
            "utterances.calibration has no effect on the embedded speech, which has its own calibration sets: give "
            "data=FOLDER, or leave it out"
        )
    for name, utterances in sets.items():
        limit = limits[name]
        if limit is not None and limit < len(utterances):
            raise ValueError(
                f"utterances.{name}={limit} has no effect on the embedded speech, whose set {name} has "
                f"{len(utterances)} utterances: give data=FOLDER, or leave it out"
            )
    return Speech(
        note="The speech is the embedded one, which is synthetic: it says nothing about people's voices.",
        seconds={name: sum(utterance.duration for utterance in utterances) for name, utterances in sets.items()},
        proxy=sets["proxy"],
        voices={utterance.speaker for utterance in sets["test"]},
        ids={},
        folder=None,
    )


def folder_speech(config: DictConfig, model: CompressibleModel, predicts: bool) -> Speech:
    """Split a folder of speech by speaker, and read and check all utterances that will be used.

    Args:
        config: A config of `experiments.compress`, with ``data``, ``utterances`` and ``seed``.
        model: The model to compress.
        predicts: Whether the divergence will be measured.

    Raises:
        ValueError: A file or a transcript is damaged, or does not fit the model.
        FileNotFoundError: There is no such folder.
    """
    folder = data_folder(config.data)
    parts = divide(folder, config, getattr(model, "window", None), predicts)
    used = sorted({index for indices in parts.values() for index in indices})
    for index in used:
        require_length(model, folder.num_samples[index], f"utterance {folder.ids[index]!r}")
    if predicts:
        require_divergence(model, folder, used)
    spoken, searched = [], {}
    for index in used:  # every file is read, so that a damaged one is found now
        utterance = folder[index]
        spoken.append((utterance.id, utterance.text))
        if index in parts["proxy"]:
            searched[index] = utterance
    require_spelling(model, spoken, config.data)
    return Speech(
        note=split_note(folder, parts),
        seconds={
            name: sum(folder.num_samples[index] for index in indices) / SAMPLE_RATE for name, indices in parts.items()
        },
        proxy=[searched[index] for index in parts["proxy"]],
        voices={folder.speakers[index] for index in parts["test"]},
        ids={name: [folder.ids[index] for index in indices] for name, indices in parts.items()},
        folder=folder.folder,
    )


def divide(folder: SpeechFolder, config: DictConfig, window: int | None, predicts: bool) -> dict[str, list[int]]:
    """Choose utterances for each purpose: purpose -> indices, ascending; no speaker is in two of proxy, dev and test.

    A model with a `window` takes as long for a short utterance as for a full window, which tells more: utterances that
    fill half of it calibrate and are searched on, or the longest ones where there are fewer. It hears longer ones in
    parts, for which there is no divergence: if that is measured, they are left out.

    Args:
        folder: The speech.
        config: A config of `experiments.compress`, with ``utterances`` and ``seed``.
        window: Number of samples that the model hears at once; None if that is any number.
        predicts: Whether the divergence will be measured.

    Raises:
        ValueError: All utterances are longer than the window, or there are too few.
    """
    samples = folder.num_samples
    used = [index for index in range(len(folder)) if window is None or not predicts or samples[index] <= window]
    if not used:
        raise ValueError(
            f"{folder.folder}: every utterance is longer than the {(window or 0) / SAMPLE_RATE:g} s that the model "
            "hears at once: cut them"
        )
    try:
        parts = split([folder.speakers[index] for index in used], config.seed)
    except ValueError as error:
        too_long = len(folder) - len(used)
        left_out = f" (without {too_long} that are longer than the model hears at once)" if too_long else ""
        raise ValueError(f"{folder.folder}: {error}{left_out}") from error
    among = {name: [used[place] for place in places] for name, places in parts.items()}
    limits = dict(config.utterances)
    limits["calibration"] = limits["calibration"] or CALIBRATED
    limits["proxy"] = limits["proxy"] or (SEARCHED if predicts else limits["calibration"])
    if window is not None:
        least = max(limits["calibration"], limits["proxy"])
        among["proxy"].sort(key=lambda index: -samples[index])
        filled = sum(samples[index] >= window / 2 for index in among["proxy"])
        among["proxy"] = sorted(among["proxy"][: max(least, filled)])
    among["calibration"] = among["proxy"]
    # Of two choices among the same utterances the smaller is a part of the larger.
    return {name: spread(among[name], folder.speakers, limit, config.seed) for name, limit in limits.items()}


def data_folder(data: str) -> SpeechFolder:
    """Return the data set in a folder, after reading its transcripts and checking the headers of its audio files."""
    path = Path(data)
    if not path.is_dir():
        raise FileNotFoundError(f"data={data}: no such folder")
    folder = SpeechFolder(path.absolute().parent, path.absolute().name)
    _ = folder.num_samples
    return folder


def split_note(folder: SpeechFolder, parts: Mapping[str, Sequence[int]]) -> str:
    """Describe a split: the size of each part, and whether speakers are held out.

    Args:
        folder: The speech.
        parts: Purpose -> indices of its utterances; calibration and proxy share speakers and utterances.
    """
    speakers = folder.speakers
    voices = {name: {speakers[index] for index in indices} for name, indices in parts.items()}
    sizes = ", ".join(
        f"{name} has {len(indices)} utterances of {len(voices[name])} speaker{'s' * (len(voices[name]) > 1)}"
        for name, indices in parts.items()
    )
    searched = voices["calibration"] | voices["proxy"]
    if voices["test"] & (searched | voices["dev"]):
        held_out = "There are too few speakers to hold any out: the result is for these voices, on other sentences."
    elif searched & voices["dev"]:
        held_out = "No voice of test is in another part; proxy and dev share theirs."
    else:
        held_out = "No voice is in two parts, but those of calibration and proxy, which are from the same speech."
    used = len({index for indices in parts.values() for index in indices})
    return f"Of {len(folder)} utterances in {folder.folder}, {used} are used: {sizes}. {held_out}"


def speaker_overlap(speech: SpeechFolder | None, test: Set[str]) -> str:
    """Return a sentence on how many speakers of test occur, by name, in the training speech; empty without training."""
    if speech is None:
        return ""
    known = sorted(test & set(speech.speakers))
    if not known:
        return " No speaker of test is in the speech that is trained on."
    return (
        f" {len(known)} of test's {len(test)} speakers are, by name, in the speech that is trained on "
        f"({known[0]} for one): the result is for known voices."
    )


def calibrate_on(search: DictConfig, speech: Any) -> None:
    """Calibrate all parts of a search on other speech, those excepted for which other than embedded speech is chosen.

    Args:
        search: A config of `experiments.search`, or of a command without an agent; it is changed.
        speech: What `load_utterances` takes.
    """
    agent = search.get("agent")
    parts = [search.factorisation, search.search_space]
    if agent is not None:
        parts += [agent, *(agent.get("rules") or ())]
    for part in parts:
        if _calibration_of(part) in CALIBRATIONS:
            with open_dict(part):
                part.calibration = speech


def _calibration_of(part: DictConfig) -> Any:
    """Return the calibration speech of a part: its option, or else its class's default; None if it has none."""
    if "calibration" in part or "_target_" not in part:
        return part.get("calibration")
    argument = inspect.signature(get_object(part._target_)).parameters.get("calibration")
    return None if argument is None else argument.default


def require_spelling(model: CompressibleModel, transcripts: Sequence[tuple[str, str]], where: str) -> None:
    """Check that the model can write all letters and digits of the transcripts.

    Args:
        model: The model.
        transcripts: (utterance id, text) each.
        where: The data, for error messages.

    Raises:
        ValueError: A transcript has a letter or digit that the model's text normaliser drops, or no word at all.
    """

    @cache
    def dropped(character: str) -> bool:
        return character[0].isalnum() and not model.normalise(character)

    for utterance_id, text in transcripts:
        unknown = [character for character in characters(compose(text)) if dropped(character)]
        if unknown or not model.normalise(text):
            lacks = f"{unknown[0]!r} is not a letter of this model" if unknown else "no word of it is left"
            raise ValueError(
                f"{where}, transcript of {utterance_id}: {lacks}: {text!r}; spell it as the model does, or "
                "take data in its language"
            )


def require_divergence(model: CompressibleModel, folder: SpeechFolder, indices: Sequence[int]) -> None:
    """Check that the divergence can be measured on the longest utterance.

    Raises:
        ValueError: It cannot be measured.
    """
    longest = folder[max(indices, key=lambda index: folder.num_samples[index])]
    try:
        _ = Evaluator(model, [longest], factorisation=SVD(model, matrices=()), divergence=True).baseline
    except ValueError as error:
        raise ValueError(f"{longest.id}: {error}: overrides=['reward=accuracy']") from error


def require_recognition(model: CompressibleModel, utterances: Sequence[Utterance]) -> float:
    """Check that the original recognises these utterances at all, before a search of hours.

    Returns:
        The time of the recognition, seconds.

    Raises:
        ValueError: The WER is above `HIGHEST_WER`.
    """
    begun = time.perf_counter()
    hypotheses = recognise_all(model, utterances)
    seconds = time.perf_counter() - begun
    references = [model.normalise(utterance.text) for utterance in utterances]
    wer = count_errors(model, references, hypotheses).wer
    if wer > HIGHEST_WER:
        raise ValueError(
            f"the original model gets {100 * wer:.0f} % of the words wrong: are data and transcripts what it was "
            f"trained for? {utterances[0].id} says {references[0]!r}, the model {model.normalise(hypotheses[0].text)!r}"
        )
    return seconds
