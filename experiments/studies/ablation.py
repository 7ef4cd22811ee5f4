"""What the search space and the proxy set bring: ``python -m experiments.studies.ablation [agents=[tpe]] [workers=2]``.

The same search in several variants. After some numbers of unique evaluations the configuration that is best so far on
the variant's own proxy set is measured on dev, where all variants can be compared: after how many evaluations and how
much time they come close to the best that any of them has found; and at the end on test, how far they get. Searches
measure everything anew, so that their times can be compared. The same command goes on where it was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import hydra
import matplotlib as mpl
import numpy as np
from omegaconf import DictConfig

mpl.use("Agg")
from matplotlib import pyplot as plt
from tqdm import tqdm

from experiments.common.report import format_table
from experiments.common.resumable import results_of
from experiments.common.run_directory import run_directory
from experiments.common.runs import Task, compose_search, digest, evaluator_on, require_lists, spend
from experiments.common.statistics import mean, mean_difference

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
class Variant:
    """One search to make, and where its best so far is measured on dev."""

    task: Task
    points: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it.

    Attributes:
        on_dev: The reward on dev of what was best on proxy, at each of the points.
        on_test: The reward on test of what was best at the end.
        test_wer: Of the same, a fraction.
        size_ratio: Of the same.
        seconds: Of one core, that the search took.
        evaluations: Unique ones of the search.
    """

    on_dev: Sequence[float]
    on_test: float
    test_wer: float
    size_ratio: float
    seconds: float
    evaluations: int


def make(variant: Variant) -> dict[str, Any]:
    """A search and its measurements on dev and test, as JSON."""
    started = time.process_time()
    problem = spend(variant.task, cache=None)
    seconds = time.process_time() - started
    config = compose_search(variant.task)
    dev, test = (evaluator_on(problem, config, name) for name in ("dev", "test"))
    on_dev = []
    for point in variant.points:
        best = max(problem.history[:point], key=lambda trial: (trial.feasible, trial.reward))
        on_dev.append(float(problem.reward_function(dev.evaluate(best.ranks), dev.baseline)))
    final = test.evaluate(problem.ranking[0].ranks)
    on_test = float(problem.reward_function(final, test.baseline))
    return asdict(Outcome(on_dev, on_test, final.wer, final.size_ratio, seconds, problem.ledger.count))


def rows(
    outcomes: Mapping[tuple[str, str], Sequence[Outcome]], points: Sequence[int], within: float
) -> list[tuple[str, ...]]:
    """One line for each variant and agent."""
    best = max(max(outcome.on_dev) for group in outcomes.values() for outcome in group)
    table: list[tuple[str, ...]] = []
    on_test = {key: [outcome.on_test for outcome in group] for key, group in outcomes.items()}
    first = {agent: name for name, agent in reversed(list(outcomes))}
    for (name, agent), group in outcomes.items():
        reached = [
            next((point for point, value in zip(points, outcome.on_dev, strict=True) if value >= best - within), None)
            for outcome in group
        ]
        each = float(np.mean([outcome.seconds / outcome.evaluations for outcome in group]))
        after = [point for point in reached if point is not None]
        table.append(
            (
                name,
                agent,
                str(mean(on_test[name, agent])),
                ""
                if name == first[agent]
                else str(mean_difference(on_test[name, agent], on_test[first[agent], agent])),
                f"{100 * np.mean([outcome.test_wer for outcome in group]):.2f}",
                f"{np.mean([outcome.size_ratio for outcome in group]):.3f}",
                f"{np.median(after):.0f}" if after else "",
                f"{np.median(after) * each:.0f}" if after else "",
                f"{len(group) - len(after)} of {len(group)}",
                f"{each:.2f}",
            )
        )
    return table


def draw(path: Path, outcomes: Mapping[tuple[str, str], Sequence[Outcome]], points: Sequence[int]) -> None:
    """One panel for each agent: the mean reward on dev against evaluations."""
    agents = list(dict.fromkeys(agent for _, agent in outcomes))
    figure, panels = plt.subplots(
        1, len(agents), figsize=(6 * len(agents), 4.5), sharey=True, squeeze=False, constrained_layout=True
    )
    for panel, agent in zip(panels[0], agents, strict=True):
        for (name, who), group in outcomes.items():
            if who == agent:
                estimates = [mean([outcome.on_dev[place] for outcome in group]) for place in range(len(points))]
                values, low, high = np.array(estimates).T
                panel.plot(points, values, "o-", markersize=3, label=name)
                panel.fill_between(points, low, high, alpha=0.12)
        panel.set_title(agent)
        panel.set_xscale("log")
        panel.set_xlabel("unique evaluations")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("reward on dev of the best on proxy (mean, 95 %)")
    panels[0][-1].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


@hydra.main(version_base="1.3", config_path="../../conf", config_name="ablation")
def main(config: DictConfig) -> None:
    """Make what is missing, then compare."""
    require_lists(agents=config.agents)
    directory = run_directory(config, "ablation", besides=("workers", "agents", "variants", "seeds", "within"))
    folder = directory / "searches"
    folder.mkdir(exist_ok=True)
    searches: dict[Path, Variant] = {}
    names: dict[Path, tuple[str, str]] = {}
    for agent in tqdm(config.agents, desc="configs"):
        for name, overrides in config.variants.items():
            first = Task("live", agent, config.reward, 0, config.budget, tuple(overrides))
            for seed in range(config.seeds):
                path = folder / f"{agent}-{digest(first)}-{seed}.json"
                if path in names:
                    raise ValueError(f"variants {names[path][0]!r} and {name!r} are the same: leave one out")
                searches[path] = Variant(replace(first, seed=seed), tuple(config.points))
                names[path] = str(name), agent
    outcomes: dict[tuple[str, str], list[Outcome]] = {}
    for key, result in zip(names.values(), results_of(searches, make, config.workers, "searches"), strict=True):
        outcomes.setdefault(key, []).append(Outcome(**result))
    text = format_table(HEAD, rows(outcomes, config.points, config.within))
    (directory / "table.txt").write_text(text + "\n")
    print(text)
    draw(directory / "ablation.png", outcomes, config.points)
    print(f"searches, table and picture: {directory}")


if __name__ == "__main__":
    main()
