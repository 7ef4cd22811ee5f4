"""Transcripts that compression has changed, with their sound."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
import soundfile

from shrinkml_env import SearchResult, Utterance
from shrinkml_env.data import SAMPLE_RATE
from shrinkml_env.evaluation import recognise_all

__all__ = ["Transcript", "changed_transcripts", "compare_words"]

SHOWN = 12
"""The largest number of transcripts in a report."""

SOUND = 2_000_000
"""The largest number of bytes of sound in a report, as it stands in the page. What exceeds it is left out."""

Words = list[tuple[str, str]]
"""Pieces of a transcript: ``right``, ``wrong`` or ``missing``, and the words."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """An utterance that the two models recognise differently.

    Attributes:
        id: The utterance's id.
        reference: The words that were said, normalised.
        original: The words that the original recognised, compared with the reference.
        compressed: The words that the compressed model recognised, compared with the reference.
        sound: The utterance as a data URI of an MP3; None if it is too large.
    """

    id: str
    reference: str
    original: Words
    compressed: Words
    sound: str | None


def changed_transcripts(result: SearchResult, utterances: Sequence[Utterance]) -> list[Transcript]:
    """Return the utterances whose numbers of word errors changed most, the largest change first.

    Args:
        result: The result of a search.
        utterances: The test set that `result.test_edits` belong to.
    """
    changes = [abs(after - before) for before, after in zip(*result.test_edits, strict=True)]
    order = sorted(range(len(utterances)), key=lambda index: -changes[index])
    chosen = [utterances[index] for index in order[:SHOWN] if changes[index]]
    if not chosen:
        return []
    hypotheses = [recognise_all(model, chosen) for model in (result.original, result.model)]
    left, found = SOUND, []
    for utterance, before, after in zip(chosen, *hypotheses, strict=True):
        reference, original, compressed = (
            result.original.normalise(text) for text in (utterance.text, before.text, after.text)
        )
        sound: str | None = _sound(utterance)
        if sound is not None and len(sound) > left:
            sound = None
        left -= len(sound or "")
        words = compare_words(reference, original), compare_words(reference, compressed)
        found.append(Transcript(utterance.id, reference, *words, sound=sound))
    return found


def compare_words(reference: str, hypothesis: str) -> Words:
    """Return the words of a hypothesis as they align with a reference: right, wrong, or missing from it."""
    output = jiwer.process_words(reference, hypothesis)
    found: Words = []
    for chunk in output.alignments[0]:
        spoken = output.references[0][chunk.ref_start_idx : chunk.ref_end_idx]
        recognised = output.hypotheses[0][chunk.hyp_start_idx : chunk.hyp_end_idx]
        kind = {"equal": "right", "delete": "missing"}.get(chunk.type, "wrong")
        found.append((kind, " ".join(spoken if kind == "missing" else recognised)))
    return found


def _sound(utterance: Utterance) -> str:
    """Return an utterance as a data URI of an MP3, which every browser plays."""
    content = io.BytesIO()
    soundfile.write(content, np.clip(utterance.waveform.numpy(), -1, 1), SAMPLE_RATE, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
