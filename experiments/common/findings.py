"""Configurations that methods found for a model, with their errors on test sets: tables and a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pandas as pd
from matplotlib.artist import Artist

from experiments.common.pictures import plt, save_figure
from experiments.common.statistics import in_points, mean, mean_wer_increase
from shrinkml_env.evaluation import WordErrors
from shrinkml_env.evaluation.intervals import wer_increase

ORIGINAL = "the original"

HEAD = ("compressed", "size", "method", "seeds", "of the whole", "multiply-adds", "dev WER %")
"""The first columns of `table`; those of each test set follow."""

ON_TEST = ("utterances", "WER %", "above the original (95 % below)")

WORST = 5
"""Where the axis of the picture ends, in WERs of the original: what is above is of no use."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The configuration that a method has found at a size.

    Attributes:
        scope: The part that is compressed: ``"encoder"``, or ``"whole"``.
        size: The largest share of the parameters in question.
        method: The method's name.
        seed: The agent's.
        ranks: Layer name -> rank.
        size_ratio: Parameters over the original's.
        macs_ratio: Multiply-adds over the original's, on dev.
        evaluations: Unique evaluations on proxy.
        dev_wer: WER on dev, a fraction, by which seeds are compared; of a rule, which has one configuration, it is not
            measured.
    """

    scope: str
    size: float
    method: str
    seed: int
    ranks: Mapping[str, int]
    size_ratio: float
    macs_ratio: float
    evaluations: int
    dev_wer: float | None


@dataclass(frozen=True, slots=True)
class Errors(WordErrors):
    """Word errors and reference words of each utterance of a test set."""

    edits: Sequence[int]
    words: Sequence[int]

    def first(self, count: int) -> Errors:
        """Return those of the first utterances."""
        return Errors(self.edits[:count], self.words[:count])


@dataclass(frozen=True, slots=True)
class Reported:
    """A configuration that was found, with its errors on the test sets, and the original's on the same utterances.

    Attributes:
        found: The configuration; None is the original.
        errors: Name of the test set -> errors.
        before: Name of the test set -> the original's errors.
    """

    found: Finding | None
    errors: Mapping[str, Errors]
    before: Mapping[str, Errors]


class OnDev(Protocol):
    """A result that was measured on dev, as `best_on_dev` compares them."""

    @property
    def dev_wer(self) -> float | None:
        """WER on dev, a fraction; None if it was not measured."""

    @property
    def size_ratio(self) -> float:
        """Parameters over the original's, in (0, 1]."""


Candidate = TypeVar("Candidate", bound=OnDev)


def best_on_dev(found: Iterable[Candidate]) -> Candidate:
    """Return the configuration with the lowest WER on dev; of equals the smaller model, then the first.

    Dev says nothing for a configuration that was not measured there, so that it never beats one that was.
    """
    return min(found, key=lambda one: (math.inf if one.dev_wer is None else one.dev_wer, one.size_ratio))


def table(rows: Sequence[Reported]) -> pd.DataFrame:
    """Return a row for each scope, size and method: of several seeds the one that dev chooses."""
    shown: list[tuple[str, ...]] = []
    for row in rows:
        results = [
            text
            for name, errors in row.errors.items()
            for text in _on_test(errors, row.before[name], row.found is not None)
        ]
        found = row.found
        if found is None:
            shown.append(("", "1", ORIGINAL, "", "1.000", "1.000", "", *results))
            continue
        seeds = [other.found for other in rows if other.found and _which(other.found) == _which(found)]
        if found is not best_on_dev(seeds):
            continue
        shown.append(
            (
                found.scope,
                f"{found.size:g}",
                found.method,
                str(len(seeds)),
                f"{found.size_ratio:.3f}",
                f"{found.macs_ratio:.3f}",
                "" if found.dev_wer is None else f"{100 * found.dev_wer:.2f}",
                *results,
            )
        )
    on_test = [f"{name}: {what}" for name in rows[0].errors for what in ON_TEST]
    return pd.DataFrame(shown, columns=[*HEAD, *on_test])


def _which(found: Finding) -> tuple[str, float, str]:
    return found.scope, found.size, found.method


def _on_test(errors: Errors, before: Errors, compared: bool) -> tuple[str, str, str]:
    wer = f"{100 * errors.wer:.2f}"
    if not compared:
        return f"{len(errors.words):,}", wer, ""
    more = wer_increase(errors.edits, before.edits, errors.words, one_sided=True)
    return f"{len(errors.words):,}", wer, in_points(more)


def pair_table(rows: Sequence[Reported], rivals: Sequence[str]) -> pd.DataFrame:
    """Return for each scope and size how much more WER each method has than its rivals, in the mean of its seeds."""
    shown: list[tuple[str, ...]] = []
    kept = [row for row in rows if row.found is not None]
    for which in dict.fromkeys(_which(row.found) for row in kept if row.found):
        ours = [row for row in kept if row.found and _which(row.found) == which]
        for rival in rivals:
            theirs = [row for row in kept if row.found and _which(row.found) == (*which[:2], rival)]
            if theirs and rival != which[2]:
                beside = []
                for name in ours[0].errors:
                    count = min(len(row.errors[name].words) for row in (*ours, *theirs))
                    one, other = ([row.errors[name].edits[:count] for row in group] for group in (ours, theirs))
                    beside.append(in_points(mean_wer_increase(one, other, ours[0].errors[name].words[:count])))
                shown.append((which[0], f"{which[1]:g}", which[2], rival, *beside))
    on_test = [f"{name}: more WER by (95 %)" for name in rows[0].errors]
    return pd.DataFrame(shown, columns=["compressed", "size", "method", "beside", *on_test])


def draw(path: Path, rows: Sequence[Reported]) -> None:
    """Draw the WER on each test set against the share of the encoder's parameters, or of all, method by method.

    The axis of the WER ends at `WORST` times the original's, unless that makes no error.
    """
    kept = [row for row in rows if row.found is not None]
    # Of configurations that are measured on more utterances, those that all are measured on.
    count = {name: min(len(row.errors[name].words) for row in rows) for name in rows[0].before}
    scopes = list(dict.fromkeys(row.found.scope for row in kept if row.found))
    tests = list(rows[0].before)
    figure, panels = plt.subplots(len(scopes), len(tests), figsize=(12, 4.5 * len(scopes)), constrained_layout=True)
    methods = list(dict.fromkeys(row.found.method for row in kept if row.found))
    lines: dict[str, Artist] = {}
    for axes, (scope, name) in zip(np.ravel(panels), [(s, t) for s in scopes for t in tests], strict=True):
        of_scope = [row for row in kept if row.found and row.found.scope == scope]
        for method in dict.fromkeys(row.found.method for row in of_scope if row.found):
            line = [
                (row.found.size, 100 * row.errors[name].first(count[name]).wer)
                for row in of_scope
                if row.found and row.found.method == method
            ]
            sizes = sorted({size for size, _ in line})
            wers = [mean([wer for size, wer in line if size == at]).value for at in sizes]
            cycle, color = divmod(methods.index(method), 10)
            (lines[method],) = axes.plot(sizes, wers, ("o-", "s--")[cycle % 2], color=f"C{color}", markersize=4)
        original = 100 * rows[0].before[name].first(count[name]).wer
        axes.axhline(original, color="black", linestyle="--", linewidth=0.8)
        axes.set(title=f"{scope}, {name}", xlabel=f"share of the parameters ({scope})", ylabel="WER %", yscale="log")
        if original:
            axes.set_ylim(0.85 * original, WORST * original)
        for format_ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            format_ticks("{x:g}")
        axes.grid(alpha=0.3)
    figure.legend([lines[method] for method in methods], methods, loc="outside right upper", frameon=False, fontsize=8)
    save_figure(figure, path, dpi=120)
