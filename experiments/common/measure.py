"""Word errors of any model, compressed or not, with the evaluator's canonical arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shrinkml_env import CompressibleModel, Utterance
from shrinkml_env.evaluation import recognise_all, word_edits

__all__ = ["Measured", "measure"]


@dataclass(frozen=True, slots=True)
class Measured:
    """The word errors of a model on an utterance set.

    Attributes:
        edits: Word errors of each utterance.
        words: Reference words of each utterance.
        capped: Number of utterances that reached their token limit.
    """

    edits: tuple[int, ...]
    words: tuple[int, ...]
    capped: int

    @property
    def wer(self) -> float:
        """The corpus WER, all errors over all words: a fraction that may exceed 1."""
        return sum(self.edits) / sum(self.words)

    def to_json(self) -> dict[str, Any]:
        """Return the WER, and the errors of each utterance for paired comparisons, as a JSON-able mapping."""
        return {"wer": self.wer, "capped": self.capped, "edits": list(self.edits), "words": list(self.words)}


def measure(model: CompressibleModel, utterances: Sequence[Utterance]) -> Measured:
    """Recognise utterances with a model and count the word errors."""
    hypotheses = recognise_all(model, utterances)
    edits, words = zip(
        *(
            word_edits(model.normalise(utterance.text), model.normalise(hypothesis.text))
            for utterance, hypothesis in zip(utterances, hypotheses, strict=True)
        ),
        strict=True,
    )
    return Measured(edits, words, sum(hypothesis.capped for hypothesis in hypotheses))
