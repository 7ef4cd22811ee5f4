"""WER against size, agent by agent: ``python -m experiments.studies.tradeoff [comparison=constraints] [workers=2]``.

For every size each agent searches for the best on proxy within it, by the WER (``reward=accuracy``) or the divergence
from the original, and each rule gives the largest model within it; among a search's best configurations, and among an
agent's seeds, dev chooses; test is reported. Everything found is written to a file, and the same command goes on where
it was stopped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.compose import to_container
from experiments.common.findings import best_on_dev
from experiments.common.learning import LEARNING, Returns, draw_learning, learning_cells
from experiments.common.pictures import plt, save_wer_against_size
from experiments.common.results import Cell
from experiments.common.searches import Search, check_search
from experiments.common.sized_searches import Chosen, choose_ranks, rule_cell, search_of_rule, sized_cell
from experiments.common.statistics import in_points, mean, mean_wer_increase
from experiments.common.study import Report, publish, study_results
from shrinkml_env.evaluation.intervals import wer_increase

HEAD = (
    "size",
    "agent",
    "seeds within the size",
    "mean of the seeds: test WER %",
    "above the best by hand",
    "best on dev: size ratio",
    "test WER %",
    "above the original (95 % below)",
    "above the best by hand",
)
"""Intervals of 95 %: a mean's is over seeds, its distance's over seeds and utterances, one model's over utterances."""

PAIRS = ("size", "mean of the seeds of", "has more test WER than", "by (95 %)")


def table(found: Sequence[Chosen], by_hand: Sequence[str]) -> pd.DataFrame:
    """Return a row for each size and agent, in `found`'s order."""
    rows: list[tuple[str, ...]] = []
    for size in dict.fromkeys(search.size for search in found):
        of_size = [search for search in found if search.size == size]
        hand = [search for search in of_size if search.agent in by_hand and search.size_ratio <= size]
        rival = best_on_dev(hand) if hand else None
        for agent in dict.fromkeys(search.agent for search in of_size):
            seeds = [search for search in of_size if search.agent == agent]
            kept = [search for search in seeds if search.size_ratio <= size]
            best = best_on_dev(kept) if kept else None
            name = f"{agent} (by hand)" if rival and agent == rival.agent else agent
            count = f"{len(kept)} of {len(seeds)}"
            rows.append((f"{size:g}", name, count, *_measured(kept, best, None if agent in by_hand else rival)))
    return pd.DataFrame(rows, columns=list(HEAD))


def _measured(kept: Sequence[Chosen], best: Chosen | None, rival: Chosen | None) -> tuple[str, ...]:
    """Return the rest of a row."""
    if best is None:
        return ("",) * 6
    seeds = mean([100 * search.on_test.wer for search in kept])
    lost = wer_increase(best.edits, best.edits_before, best.words, one_sided=True)
    beside_mean = beside = ""
    if rival is not None:
        edits = [search.edits for search in kept]
        beside_mean = in_points(mean_wer_increase(edits, [rival.edits], best.words))
        beside = in_points(wer_increase(best.edits, rival.edits, best.words))
    return (
        f"{seeds:.2f}" if len(kept) > 1 else "",
        beside_mean if len(kept) > 1 else "",
        f"{best.size_ratio:.3f}",
        f"{100 * best.on_test.wer:.2f}",
        in_points(lost),
        beside,
    )


def pair_table(found: Sequence[Chosen], compared: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return for every size the seeds' mean beside another's, where both have kept it."""
    rows: list[tuple[str, ...]] = []
    for size in dict.fromkeys(search.size for search in found):
        kept = [search for search in found if search.size == size and search.size_ratio <= size]
        for names in compared:
            groups = [[search.edits for search in kept if search.agent == name] for name in names]
            if all(groups):
                one, other = groups
                rows.append((f"{size:g}", *names, in_points(mean_wer_increase(one, other, kept[0].words))))
    return pd.DataFrame(rows, columns=list(PAIRS))


def learning_table(found: Sequence[Chosen], frozen: Mapping[str, str]) -> pd.DataFrame:
    """Return a row for each size and each agent that is compared with one that does not learn.

    Args:
        found: With the returns of their episodes.
        frozen: Name of an agent -> name of the same agent with a learning rate of 0.
    """
    rows: list[tuple[str, ...]] = []
    for (size, agent), returns in returns_beside(found, frozen).items():
        passes = np.mean([search.passes for search in found if (search.size, search.agent) == (size, agent)])
        rows.append((f"{size:g}", agent, f"{passes:,.0f}", *learning_cells(returns)))
    return pd.DataFrame(rows, columns=["size", "agent", "utterance passes", *LEARNING])


def returns_beside(found: Sequence[Chosen], frozen: Mapping[str, str]) -> dict[tuple[float, str], Returns]:
    """Return the returns of each agent at each size beside those without learning, where both are recorded.

    Args:
        found: With the returns of their episodes.
        frozen: As in `learning_table`.
    """
    beside = {}
    for size in dict.fromkeys(search.size for search in found):
        for agent, still in frozen.items():
            returns = Returns(
                *(
                    [one.returns for one in found if (one.size, one.agent) == (size, name) and one.returns]
                    for name in (agent, still)
                )
            )
            if all(returns):
                beside[size, agent] = returns
    return beside


def draw(path: Path, found: Sequence[Chosen]) -> None:
    """Mean test WER of the seeds that kept the size, with its 95 % interval, against the size."""
    figure, axes = plt.subplots(figsize=(8, 5), constrained_layout=True)
    for place, agent in enumerate(dict.fromkeys(search.agent for search in found)):
        means = {}
        for size in sorted({search.size for search in found}):
            wers = [s.on_test.wer for s in found if (s.agent, s.size) == (agent, size) and s.size_ratio <= size]
            if wers:
                means[size] = mean([100 * wer for wer in wers])
        values, low, high = np.array(list(means.values())).reshape(-1, 3).T
        style = ("o-", "o--", "o:")[place // 10 % 3]
        axes.plot(list(means), values, style, color=f"C{place % 10}", label=agent, markersize=3)
        axes.fill_between(list(means), low, high, color=f"C{place % 10}", alpha=0.15)
    axes.axhline(100 * found[0].before.wer, color="black", linestyle="--", linewidth=0.8, label="the original")
    save_wer_against_size(figure, axes, path, "size ratio allowed")


def require_names(comparison: DictConfig) -> None:
    """Check that there is something to compare, and that what refers to it names it.

    Raises:
        ValueError: Nothing is compared, or a name is none of the comparison's.
    """
    names = [*comparison.rules, *comparison.agents]
    if not names:
        raise ValueError("nothing to compare: give comparison.rules or comparison.agents")
    named = {
        "by_hand": comparison.by_hand,
        "pairs": itertools.chain.from_iterable(comparison.pairs),
        "frozen": itertools.chain.from_iterable(comparison.frozen.items()),
    }
    for option, used in named.items():
        for name in used:
            if name not in names:
                raise ValueError(f"comparison.{option}: {name!r} is not among the methods: {', '.join(names)}")


def grid(config: DictConfig) -> list[Cell[Any]]:
    """Return the cells, size by size: rules first.

    Raises:
        ValueError: Something in the config is wrong.
    """
    comparison = config.comparison
    require_names(comparison)
    cells: list[Cell[Any]] = []
    for size in comparison.sizes:
        for name, options in comparison.rules.items():
            own = options.get("overrides", ())
            search = search_of_rule(options.get("agent", name), (*config.overrides, *own))
            given = [f"agent={search.agent}", *own]
            check_search(search, {"overrides": config.overrides, f"comparison.rules.{name}": given})
            cells.append(rule_cell(str(name), search, size))
        for name, options in comparison.agents.items():
            if size not in options.get("sizes", comparison.sizes):
                continue
            overrides = (*config.overrides, *options.overrides, f"constraint.budget={size}")
            reward = options.get("reward", "accuracy")
            budget = options.get("budget", config.budget)
            first = Search("live", options.get("agent", name), reward, 0, budget, overrides)
            given = [f"agent={first.agent}", f"reward={first.reward}", *options.overrides]
            check_search(first, {"overrides": config.overrides, f"comparison.agents.{name}": given})
            searches = [replace(first, seed=seed) for seed in range(options.seeds)]
            cells += [sized_cell(str(name), search, config.finalists) for search in searches]
    return cells


@command("tradeoff")
def main(config: DictConfig) -> None:
    """Run the missing searches, then compare."""
    cells = grid(config)
    results = study_results("tradeoff", config, cells, choose_ranks, lambda result: Chosen(**result))
    # Rules of the same settings share a result, under the name that each has in this comparison.
    found = [replace(one, agent=cell.task.name) for cell, one in zip(cells, results, strict=True)]
    comparison = config.comparison
    frozen = to_container(comparison.frozen)
    tables = [
        table(found, comparison.by_hand),
        pair_table(found, to_container(comparison.pairs)),
        learning_table(found, frozen),
    ]
    pictures: dict[str, Callable[[Path], None]] = {"tradeoff": lambda path: draw(path, found)}
    panels = {
        f"{agent}, {size:g} of the size": returns
        for (size, agent), returns in returns_beside(found, frozen).items()
        if returns.enough
    }
    if panels:
        pictures["learning"] = lambda path: draw_learning(path, panels)
    publish("tradeoff", config, Report(tables, pictures))


if __name__ == "__main__":
    main()
