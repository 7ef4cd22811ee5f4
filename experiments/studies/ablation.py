"""Ablate search space and proxy set: ``python -m experiments.studies.ablation [agents=[tpe]] [workers=2]``.

The same search is run in several variants. After given numbers of unique evaluations, the configuration that is best so
far on the variant's own proxy set is measured on dev, where variants can be compared: the table shows after how many
evaluations and how much time each comes close to the best of all. The final configurations are measured on test.
Searches use no cache, so that their times can be compared. The same command resumes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.kinds import list_of, mapping_of, number, whole
from experiments.common.options import OVERRIDES, REWARD
from experiments.common.pictures import plt, save_figure
from experiments.common.results import Cell
from experiments.common.searches import (
    Search,
    check_search,
    evaluator_on,
    explored,
    search_cell,
)
from experiments.common.statistics import mean, mean_difference
from experiments.common.study import Report, publish, study_results

HEAD = (
    "variant",
    "agent",
    "reward on test (mean, 95 %)",
    "more than the first variant (95 %)",
    "test WER %",
    "size ratio",
    "close on dev after: evaluations",
    "CPU s",
    "never",
    "CPU s an evaluation",
)


@dataclass(frozen=True, slots=True)
class VariantSearch:
    """A search in one of the variants.

    Attributes:
        variant: The variant's name.
        search: The search.
        after: Numbers of evaluations after which the best configuration so far is measured on dev.
    """

    variant: str
    search: Search
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VariantResult:
    """The result of a search in one of the variants.

    Attributes:
        on_dev: Reward on dev of the best configuration on proxy so far, after each number of evaluations.
        on_test: Reward on test of the final configuration.
        test_wer: WER on test of the final configuration, a fraction.
        size_ratio: Size ratio of the final configuration.
        seconds: CPU time of the search, seconds.
        evaluations: Number of unique evaluations.
    """

    on_dev: Sequence[float]
    on_test: float
    test_wer: float
    size_ratio: float
    seconds: float
    evaluations: int


def make(task: VariantSearch) -> dict[str, Any]:
    """Run a search and return its `VariantResult`, JSON-able."""
    started = time.process_time()
    problem, _ = explored(task.search, cache=None)
    seconds = time.process_time() - started
    dev, test = (evaluator_on(problem, task.search.config, name) for name in ("dev", "test"))
    on_dev = []
    for count in task.after:
        best = max(problem.history[:count], key=lambda trial: (trial.feasible, trial.reward))
        on_dev.append(problem.reward(dev.evaluate(best.ranks), dev.baseline)[0])
    final = test.evaluate(problem.ranking[0].ranks)
    on_test = problem.reward(final, test.baseline)[0]
    return asdict(VariantResult(on_dev, on_test, final.wer, final.size_ratio, seconds, problem.ledger.count))


def table(
    outcomes: Mapping[tuple[str, str], Sequence[VariantResult]], after: Sequence[int], within: float
) -> pd.DataFrame:
    """Return a table with a row for each variant and agent.

    Args:
        outcomes: (variant, agent) -> the result of each seed.
        after: The numbers of evaluations of `VariantResult.on_dev`.
        within: Distance from the best reward on dev that counts as close.
    """
    best = max(max(outcome.on_dev) for group in outcomes.values() for outcome in group)
    rows: list[tuple[str, ...]] = []
    on_test = {key: [outcome.on_test for outcome in group] for key, group in outcomes.items()}
    first = {agent: name for name, agent in reversed(list(outcomes))}
    for (name, agent), group in outcomes.items():
        reached = [
            next((count for count, value in zip(after, outcome.on_dev, strict=True) if value >= best - within), None)
            for outcome in group
        ]
        each = float(np.mean([outcome.seconds / outcome.evaluations for outcome in group]))
        close = [count for count in reached if count is not None]
        rows.append(
            (
                name,
                agent,
                str(mean(on_test[name, agent])),
                ""
                if name == first[agent]
                else str(mean_difference(on_test[name, agent], on_test[first[agent], agent])),
                f"{100 * np.mean([outcome.test_wer for outcome in group]):.2f}",
                f"{np.mean([outcome.size_ratio for outcome in group]):.3f}",
                f"{np.median(close):.0f}" if close else "",
                f"{np.median(close) * each:.0f}" if close else "",
                f"{len(group) - len(close)} of {len(group)}",
                f"{each:.2f}",
            )
        )
    return pd.DataFrame(rows, columns=list(HEAD))


def draw(path: Path, outcomes: Mapping[tuple[str, str], Sequence[VariantResult]], after: Sequence[int]) -> None:
    """Draw the mean reward on dev against evaluations, with one panel for each agent."""
    agents = list(dict.fromkeys(agent for _, agent in outcomes))
    figure, panels = plt.subplots(
        1, len(agents), figsize=(6 * len(agents), 4.5), sharey=True, squeeze=False, constrained_layout=True
    )
    for panel, agent in zip(panels[0], agents, strict=True):
        for (name, who), group in outcomes.items():
            if who == agent:
                estimates = [mean([outcome.on_dev[place] for outcome in group]) for place in range(len(after))]
                values, low, high = np.array(estimates).T
                panel.plot(after, values, "o-", markersize=3, label=name)
                panel.fill_between(after, low, high, alpha=0.12)
        panel.set_title(agent)
        panel.set_xscale("log")
        panel.set_xlabel("unique evaluations")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("reward on dev of the best on proxy (mean, 95 %)")
    panels[0][-1].legend(frameon=False)
    save_figure(figure, path, dpi=110)


def grid(config: DictConfig) -> list[Cell[VariantSearch]]:
    """Return the cells, agent by agent and variant by variant.

    Raises:
        ValueError: The config of a search is not valid, or two variants are equal.
    """
    cells: dict[str, Cell[VariantSearch]] = {}
    for agent in config.agents:
        for variant, overrides in config.variants.items():
            first = Search("live", agent, config.reward, 0, config.budget, tuple(overrides))
            options = {
                f"variants.{variant}": overrides,
                "agents": [f"agent={agent}"],
                "reward": [f"reward={config.reward}"],
            }
            check_search(first, options)
            for seed in range(config.seeds):
                search = replace(first, seed=seed)
                task = VariantSearch(str(variant), search, tuple(config.after))
                cell = search_cell(search, task, after=list(config.after))
                if cell.key in cells:
                    twin = cells[cell.key].task.variant
                    raise ValueError(f"variants {twin!r} and {variant!r} are the same: leave one out")
                cells[cell.key] = cell
    return list(cells.values())


@command(
    "ablation",
    variants=mapping_of(OVERRIDES),
    reward=REWARD,
    after=list_of(whole(1)),
    within=number(least=0),
)
def main(config: DictConfig) -> None:
    """Run missing searches, then compare."""
    cells = grid(config)
    outcomes: dict[tuple[str, str], list[VariantResult]] = {}
    found = study_results("ablation", config, cells, make, lambda result: VariantResult(**result))
    for cell, outcome in zip(cells, found, strict=True):
        outcomes.setdefault((cell.task.variant, cell.task.search.agent), []).append(outcome)
    shown = table(outcomes, config.after, config.within)
    publish("ablation", config, Report([shown], {"ablation": lambda path: draw(path, outcomes, config.after)}))


if __name__ == "__main__":
    main()
