"""Word errors, counted by jiwer."""

from __future__ import annotations

import jiwer

__all__ = ["word_edits"]


def word_edits(reference: str, hypothesis: str) -> tuple[int, int]:
    """Return the substitutions + deletions + insertions between two texts, and the reference's number of words.

    Both texts are taken as they are, in words split at spaces. A reference without words counts every hypothesis word
    as an insertion.
    """
    if not reference.split():
        return len(hypothesis.split()), 0
    output = jiwer.process_words(reference, hypothesis)
    return output.substitutions + output.deletions + output.insertions, len(reference.split())
