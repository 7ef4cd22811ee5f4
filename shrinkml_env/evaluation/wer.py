"""Word errors, counted by jiwer."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer

from shrinkml_env.compression import CompressibleModel, Hypothesis
from shrinkml_env.evaluation.result import Counts

__all__ = ["count_errors", "word_edits"]


def word_edits(reference: str, hypothesis: str) -> tuple[int, int]:
    """Return the number of substitutions, deletions and insertions, and the number of reference words.

    The texts are split at white space and not normalised. If the reference is empty, every word of the hypothesis
    counts as an insertion.
    """
    if not reference.split():
        return len(hypothesis.split()), 0
    output = jiwer.process_words(reference, hypothesis)
    return output.substitutions + output.deletions + output.insertions, len(reference.split())


def count_errors(model: CompressibleModel, references: Sequence[str], transcripts: Sequence[Hypothesis]) -> Counts:
    """Count the word errors in transcripts of at least one utterance.

    Args:
        model: The model, whose text normalisation the transcripts get.
        references: The normalised reference of each utterance.
        transcripts: What was recognised of each utterance, in the same order.
    """
    edits, words = zip(
        *(
            word_edits(reference, model.normalise(transcript.text))
            for reference, transcript in zip(references, transcripts, strict=True)
        ),
        strict=True,
    )
    return Counts(edits, words, sum(transcript.capped for transcript in transcripts))
