"""One measurement."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["Counts", "Evaluation"]


@dataclass(frozen=True, slots=True)
class Counts:
    """The errors that one compressed form of a model made on one utterance set.

    Attributes:
        edits: Word substitutions + deletions + insertions of each utterance, in the set's order.
        words: Reference words of each utterance.
        capped: Utterances whose decoding ran into its token limit.
        divergence: How far the form's distributions are from the original's, in nats a unit, at least 0 (see
            `mean_divergence`); None where it was not measured.
    """

    edits: tuple[int, ...]
    words: tuple[int, ...]
    capped: int
    divergence: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able record; a divergence that was not measured has no entry."""
        record = {"edits": list(self.edits), "words": list(self.words), "capped": self.capped}
        return record if self.divergence is None else {**record, "divergence": self.divergence}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Return the counts of which `to_json` made a record.

        Raises:
            KeyError: The record lacks something.
            TypeError: One of its values is of another type.
            ValueError: It has not as many edits as words.
        """
        edits, words = (tuple(map(operator.index, record[name])) for name in ("edits", "words"))
        divergence = record.get("divergence")
        if len(edits) != len(words):
            raise ValueError(f"{len(edits)} numbers of edits, {len(words)} of words")
        return cls(edits, words, operator.index(record["capped"]), None if divergence is None else float(divergence))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One configuration measured on one utterance set.

    Attributes:
        ranks: Layer name -> canonical rank, complete, in forward order.
        edits: Word substitutions + deletions + insertions of each utterance, in the set's order.
        words: Reference words of each utterance.
        params: Parameters of the compressed model, biases included, training-only ones not.
        size_ratio: `params` over the original's, in (0, 1].
        macs: Multiply-adds over the whole set with the reference token counts.
        capped: Utterances whose decoding ran into its token limit.
        divergence: How far the model's distributions are from the original's, in nats a unit, at least 0 (see
            `mean_divergence`); None where the evaluator was not asked for it.
    """

    ranks: Mapping[str, int]
    edits: tuple[int, ...]
    words: tuple[int, ...]
    params: int
    size_ratio: float
    macs: int
    capped: int
    divergence: float | None = None

    @property
    def wer(self) -> float:
        """The corpus word error rate, all edits over all reference words: a fraction that may exceed 1."""
        return sum(self.edits) / sum(self.words)
