"""The result of a search."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, Protocol

import pandas as pd

from shrinkml_env.compression import CompressibleModel, Layer, save_compressed
from shrinkml_env.evaluation.intervals import Estimate
from shrinkml_env.mdp.problem import Trial
from shrinkml_env.text_table import format_table

__all__ = ["MODELS", "SearchResult", "SetResult"]

MODELS = ("original", "compressed")
"""The names of the two models that a search compares."""


class HasCounts(Protocol):
    """The word errors on an utterance set, as attributes; `Evaluation` has them."""

    @property
    def edits(self) -> tuple[int, ...]:
        """Word errors of each utterance."""

    @property
    def words(self) -> tuple[int, ...]:
        """Reference words of each utterance."""

    @property
    def capped(self) -> int:
        """Number of utterances that reached their token limit."""


@dataclass(frozen=True, slots=True)
class SetResult:
    """Word errors on one utterance set, before and after compression.

    Attributes:
        utterances: Number of utterances.
        words: Number of reference words.
        edits_before: Word errors of the original.
        edits_after: Word errors of the compressed model.
        capped_before: Number of utterances in which the original reached its token limit.
        capped_after: Number of utterances in which the compressed model reached its token limit.
    """

    utterances: int
    words: int
    edits_before: int
    edits_after: int
    capped_before: int
    capped_after: int

    @classmethod
    def of(cls, before: HasCounts, after: HasCounts, utterances: int | None = None) -> SetResult:
        """Return the sums of two measurements on the same set.

        Args:
            before: That of the original.
            after: That of the compressed model.
            utterances: Number of utterances; by default that of the counts, which those of a table do not have.
        """
        count = len(before.words) if utterances is None else utterances
        return cls(count, sum(before.words), sum(before.edits), sum(after.edits), before.capped, after.capped)

    @property
    def wer_before(self) -> float:
        """WER of the original, a fraction."""
        return self.edits_before / self.words

    @property
    def wer_after(self) -> float:
        """WER of the compressed model, a fraction that may exceed 1."""
        return self.edits_after / self.words

    def to_json(self) -> dict[str, Any]:
        """Return all counts and both WERs."""
        return {**asdict(self), "wer_before": self.wer_before, "wer_after": self.wer_after}


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SearchResult:
    """The configuration that a search found, the compressed model, and its measurements.

    It prints as a table, in a notebook as an HTML table. Pairs are (original, compressed).

    Attributes:
        model: The compressed model.
        original: The model that the search began with.
        layers: The layers that the search decided about, in forward order.
        ranks: Layer name -> rank.
        params: Numbers of parameters.
        encoder_params: Numbers of parameters of the encoder; None if the model does not define its encoder.
        file_bytes: Sizes of the saved tensors.
        sets: Name of a set (``"proxy"``, ``"dev"``, ``"test"``) -> word errors on it.
        rewards: Name of a set -> reward of the compressed model on it; empty if it was trained after the search.
        test_edits: Word errors of each utterance of test.
        wer_increase: Increase of the WER on test, a fraction, with its 95 % interval.
        history: Every unique evaluation of the search on the proxy set, in order.
        feasible: Whether the search's constraint is met; True where there is none.
        config: JSON-able entries of ``best.json`` that describe how the result was made.
        notes: Remarks, a sentence or two each.
    """

    model: CompressibleModel
    original: CompressibleModel
    layers: tuple[Layer, ...]
    ranks: dict[str, int]
    params: tuple[int, int]
    encoder_params: tuple[int, int] | None
    file_bytes: tuple[int, int]
    sets: dict[str, SetResult]
    rewards: dict[str, float]
    test_edits: tuple[tuple[int, ...], tuple[int, ...]]
    wer_increase: Estimate
    history: tuple[Trial, ...]
    feasible: bool = True
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def size_ratio(self) -> float:
        """Share of the parameters that are left, in (0, 1]."""
        return self.params[1] / self.params[0]

    @property
    def wer(self) -> dict[str, float]:
        """Name of a set -> WER of the compressed model on it, a fraction."""
        return {name: measured.wer_after for name, measured in self.sets.items()}

    @property
    def evaluations(self) -> int:
        """Number of unique evaluations that the search used."""
        return len(self.history)

    @property
    def utterance_passes(self) -> int:
        """Number of utterances that the search has recognised or predicted, summed over its evaluations.

        In this currency searches on sets of different sizes are compared.
        """
        return self.evaluations * self.sets["proxy"].utterances if self.history else 0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the compressed model to a directory, which `load_compressed` reads."""
        save_compressed(self.model, path)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the models, the history and `test_edits`, for ``best.json``."""
        return {
            **self.config,
            "ranks": self.ranks,
            "rewards": self.rewards,
            "size_ratio": self.size_ratio,
            "params": dict(zip(MODELS, self.params, strict=True)),
            "encoder_params": self.encoder_params and dict(zip(MODELS, self.encoder_params, strict=True)),
            "file_bytes": dict(zip(MODELS, self.file_bytes, strict=True)),
            "evaluations": self.evaluations,
            "utterance_passes": self.utterance_passes,
            "feasible": self.feasible,
            "wer_increase": self.wer_increase.to_json(),
            "sets": {name: measured.to_json() for name, measured in self.sets.items()},
            "notes": list(self.notes),
        }

    def layer_table(self) -> pd.DataFrame:
        """Return a table of the layers: name, shapes, rank, share of the parameters kept."""
        rows = [
            (
                layer.name,
                _shapes(layer),
                "dense" if self.ranks[layer.name] == layer.max_rank else str(self.ranks[layer.name]),
                f"{100 * layer.parameters(self.ranks[layer.name]) / layer.parameters(layer.max_rank):.0f} %",
            )
            for layer in self.layers
        ]
        return pd.DataFrame(rows, columns=["layer", "shape", "rank", "parameters kept"])

    def model_table(self) -> pd.DataFrame:
        """Return a table of sizes and WERs, of the original and of the compressed model."""
        original, compressed = self.params
        rows = [
            ("parameters", f"{original:,}", f"{compressed:,} ({self.size_ratio:.3f})"),
            *self._encoder_rows(),
            ("file", f"{self.file_bytes[0] / 1e6:.2f} MB", f"{self.file_bytes[1] / 1e6:.2f} MB"),
            *(
                (f"{name} WER", f"{100 * measured.wer_before:.2f} %", f"{100 * measured.wer_after:.2f} %")
                for name, measured in self.sets.items()
            ),
            (
                "test WER, increase in points, 95 % interval",
                "",
                f"{self.wer_increase.times(100):+.2f}",
            ),
            (
                "utterances at the token limit",
                str(sum(measured.capped_before for measured in self.sets.values())),
                str(sum(measured.capped_after for measured in self.sets.values())),
            ),
        ]
        return pd.DataFrame(rows, columns=["model", *MODELS])

    def summary(self) -> str:
        """Return one sentence: the size, the evaluations, the WER on test."""
        test = self.sets["test"]
        return (
            f"size ratio {self.size_ratio:.3f} ({1 / self.size_ratio:.1f}x smaller) after {self.evaluations} "
            f"evaluations, test WER {100 * test.wer_before:.2f} % -> {100 * test.wer_after:.2f} %"
        )

    def __repr__(self) -> str:
        tables = (format_table(table) for table in (self.layer_table(), self.model_table()))
        return "\n\n".join([*tables, "\n".join([self.summary(), *self.notes])])

    def _repr_html_(self) -> str:
        tables = (table.to_html(index=False, border=0) for table in (self.model_table(), self.layer_table()))
        lines = "".join(f"<p>{escape(line)}</p>" for line in (self.summary(), *self.notes))
        return lines + "".join(tables)

    def _encoder_rows(self) -> list[tuple[str, str, str]]:
        if self.encoder_params is None:
            return []
        original, compressed = self.encoder_params
        return [("parameters of the encoder", f"{original:,}", f"{compressed:,} ({compressed / original:.3f})")]


def _shapes(layer: Layer) -> str:
    """Return ``2 of 768 x 384, 2 of 768 x 192``."""
    counts: dict[tuple[int, int], int] = {}
    for shape in layer.shapes:
        counts[shape] = counts.get(shape, 0) + 1
    return ", ".join(f"{f'{count} of ' if count > 1 else ''}{m} x {n}" for (m, n), count in counts.items())
