"""Measure what compensation brings: ``python -m experiments.studies.compensation [workers=2]``.

Ranks in closed form, with the factors as they are and with those of `CompensatedSVD`, which are fitted on the same
calibration speech: word error rate on test, divergence on dev.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.findings import Errors
from experiments.common.kinds import list_of, number
from experiments.common.pictures import plt, save_figure
from experiments.common.results import Cell
from experiments.common.searches import Search, check_search, compensated, evaluator_on, search_cell
from experiments.common.sized_searches import SizedRule, found_by_rule
from experiments.common.statistics import in_points
from experiments.common.study import Report, publish, study_results
from shrinkml_env.evaluation.intervals import wer_increase


@dataclass(frozen=True, slots=True)
class Compared:
    """One configuration with both kinds of factors.

    Attributes:
        size: The size ratio that was asked for.
        size_ratio: Parameters over the original's.
        divergence: On dev: with the factors as they are, and compensated; nats a unit.
        original: The original's errors on test.
        plain: Those with the factors as they are.
        compensated: Those with the others.
    """

    size: float
    size_ratio: float
    divergence: tuple[float, float]
    original: Errors
    plain: Errors
    compensated: Errors


def make(task: SizedRule) -> dict[str, Any]:
    """Return a `Compared`, as JSON."""
    config = task.search.config
    problem, ranks, _ = found_by_rule(config, task.size)
    dev, test = (evaluator_on(problem, config, name) for name in ("dev", "test"))
    factors = compensated(test, config, ranks)
    on_dev, on_test = (
        [one.evaluate(ranks) for one in (evaluator, evaluator.with_factorisation(factors))] for evaluator in (dev, test)
    )
    before, after = (evaluation.divergence for evaluation in on_dev)
    if before is None or after is None:
        raise ValueError("compensation is compared by the divergence: give the searches reward=divergence")
    errors = (Errors(list(result.edits), list(result.words)) for result in (test.baseline, *on_test))
    return asdict(Compared(task.size, test.size_ratio(ranks), (before, after), *errors))


def read(result: dict[str, Any]) -> Compared:
    """Return what `make` has written."""
    errors = {name: Errors(**result[name]) for name in ("original", "plain", "compensated")}
    return Compared(result["size"], result["size_ratio"], tuple(result["divergence"]), **errors)


def grid(config: DictConfig) -> list[Cell[SizedRule]]:
    """Return the cells, size by size.

    Raises:
        ValueError: An override is wrong.
    """
    search = Search("live", "closed_form", "divergence", 0, 1, tuple(config.overrides))
    check_search(search, {"overrides": config.overrides})
    return [search_cell(search, SizedRule("closed_form", search, size), size=size) for size in config.sizes]


def table(found: Sequence[Compared]) -> pd.DataFrame:
    """Return a row for each size."""
    rows = []
    for one in found:
        words = one.original.words
        saved = wer_increase(one.compensated.edits, one.plain.edits, words)
        above = wer_increase(one.compensated.edits, one.original.edits, words, one_sided=True)
        rows.append(
            {
                "size": f"{one.size:g}",
                "size ratio": f"{one.size_ratio:.3f}",
                "dev divergence": f"{one.divergence[0]:.4f}",
                "dev divergence, compensated": f"{one.divergence[1]:.4f}",
                "test WER %": f"{100 * one.plain.wer:.2f}",
                "test WER %, compensated": f"{100 * one.compensated.wer:.2f}",
                "change (95 %)": in_points(saved),
                "above the original (95 % below)": in_points(above),
            }
        )
    return pd.DataFrame(rows)


def draw(path: Path, found: Sequence[Compared]) -> None:
    """Draw the word error rate on test against the size."""
    figure, axes = plt.subplots(figsize=(7, 4.5), constrained_layout=True)
    ordered = sorted(found, key=lambda one: one.size_ratio)
    sizes = [one.size_ratio for one in ordered]
    axes.plot(sizes, [100 * one.plain.wer for one in ordered], "o-", label="factors as they are")
    axes.plot(sizes, [100 * one.compensated.wer for one in ordered], "o-", label="compensated")
    axes.axhline(100 * ordered[0].original.wer, color="black", linewidth=0.8, linestyle="--", label="the original")
    axes.set(xlabel="size ratio", ylabel="test WER, %")
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(figure, path, dpi=120)


@command("compensation", sizes=list_of(number(above=0, below=1)))
def main(config: DictConfig) -> None:
    """Compress, measure, print and draw."""
    found = study_results("compensation", config, grid(config), make, read, "configurations")
    publish("compensation", config, Report([table(found)], {"compensation": lambda path: draw(path, found)}))


if __name__ == "__main__":
    main()
