"""The result of measuring one configuration."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["Counts", "Evaluation", "WordErrors"]


class WordErrors:
    """The word errors of a model on utterances: a base of dataclasses that have these fields.

    Attributes:
        edits: Word substitutions + deletions + insertions of each utterance.
        words: Reference words of each utterance, in the same order.
    """

    __slots__ = ()
    edits: Sequence[int]
    words: Sequence[int]

    @property
    def wer(self) -> float:
        """The corpus word error rate, all edits over all reference words: a fraction that may exceed 1."""
        return sum(self.edits) / sum(self.words)


@dataclass(frozen=True, slots=True)
class Counts(WordErrors):
    """The errors of one compressed model on one utterance set.

    Attributes:
        edits: Word substitutions + deletions + insertions of each utterance, in the set's order.
        words: Reference words of each utterance.
        capped: Number of utterances whose decoding reached its token limit.
        divergence: Divergence from the original, nats a unit, at least 0 (see `mean_divergence`); None if it was not
            measured.
    """

    edits: tuple[int, ...]
    words: tuple[int, ...]
    capped: int
    divergence: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a JSON-able mapping, without an entry for a divergence of None."""
        record = {"edits": list(self.edits), "words": list(self.words), "capped": self.capped}
        return record if self.divergence is None else {**record, "divergence": self.divergence}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Return the counts that `to_json` turned into this record.

        Raises:
            KeyError: An entry is missing.
            TypeError: A value has another type.
            ValueError: The numbers of utterances in `edits` and `words` differ.
        """
        edits, words = (tuple(map(operator.index, record[name])) for name in ("edits", "words"))
        divergence = record.get("divergence")
        if len(edits) != len(words):
            raise ValueError(f"{len(edits)} numbers of edits, {len(words)} of words")
        return cls(edits, words, operator.index(record["capped"]), None if divergence is None else float(divergence))


@dataclass(frozen=True, slots=True)
class Evaluation(WordErrors):
    """The measurement of one configuration on one utterance set; `wer` is its word error rate.

    Attributes:
        ranks: Layer name -> canonical rank, complete, in forward order.
        edits: Word substitutions + deletions + insertions of each utterance, in the set's order.
        words: Reference words of each utterance.
        params: Number of parameters of the compressed model, biases included, training-only ones excluded.
        size_ratio: `params` over the original's, in (0, 1].
        macs: Multiply-adds over the whole set with the reference token counts.
        capped: Number of utterances whose decoding reached its token limit.
        divergence: Divergence from the original, nats a unit, at least 0 (see `mean_divergence`); None if the
            evaluator does not measure it.
    """

    ranks: Mapping[str, int]
    edits: tuple[int, ...]
    words: tuple[int, ...]
    params: int
    size_ratio: float
    macs: int
    capped: int
    divergence: float | None = None
