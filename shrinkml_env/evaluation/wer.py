"""Word errors, counted by jiwer."""

from __future__ import annotations

import jiwer

__all__ = ["word_edits"]


def word_edits(reference: str, hypothesis: str) -> tuple[int, int]:
    """Return the number of substitutions, deletions and insertions, and the number of reference words.

    The texts are split at white space and not normalised. If the reference is empty, every word of the hypothesis
    counts as an insertion.
    """
    if not reference.split():
        return len(hypothesis.split()), 0
    output = jiwer.process_words(reference, hypothesis)
    return output.substitutions + output.deletions + output.insertions, len(reference.split())
