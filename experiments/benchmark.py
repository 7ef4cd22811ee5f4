"""Agents x rewards x seeds: ``python -m experiments.benchmark [env=tabular|live] [agents=[ppo,random]] [workers=2]``.

Every run is played to its budget of unique evaluations (or 20 times as many episodes) and written to a file; the same
command goes on where it was stopped. A table and pictures compare the agents in rliable's manner.

A score is 1 - the normalised regret: 1 for the best configuration that there is, 0 for a middling one. On the table
both are known; live, the best that any run has found and the median of the random agent's evaluations stand for them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import hydra
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

mpl.use("Agg")
from matplotlib import pyplot as plt
from tqdm import tqdm

from experiments.report import format_table
from experiments.resumable import results_of
from experiments.run_directory import run_directory
from experiments.runs import Run, Task, compose_search, digest, make_env, play_as_json
from experiments.statistics import anytime, difference, evaluations_to_reach, improvement, iqm, iqm_curve, profile
from shrinkml_env.table import Table
from shrinkml_env.tabular import TabularEnv


def require_effect(task_env: str, overrides: Sequence[str]) -> None:
    """Refuse what would be ignored.

    Raises:
        ValueError: An override is of something that a table fixes.
    """
    fixed = ("model", "proxy", "granularity", "search_space", "shaping", "factorisation")
    for override in overrides:
        if task_env == "tabular" and override.lstrip("+~").split("=")[0].split(".")[0] in fixed:
            raise ValueError(
                f"overrides: {override!r} has no effect on a table, which fixes {', '.join(fixed)}: env=live"
            )


def ends(task: Task, runs: Sequence[Run]) -> tuple[float, float]:
    """The rewards that score 0 and 1 in runs like this one."""
    if task.env == "tabular":
        return _ends_on_table(replace(task, agent="random", seed=0), Table.load().content)
    drawn = [value for run in runs if run.agent == "random" for value in run.rewards]
    if not drawn:
        raise ValueError("live scores are relative to the random agent: add it to agents=[...]")
    return float(np.median(drawn)), max(max(run.rewards) for run in runs)


@cache
def _ends_on_table(task: Task, content: str) -> tuple[float, float]:
    table = make_env(task, compose_search(task)).unwrapped
    assert isinstance(table, TabularEnv)
    return float(np.median(table.rewards)), table.optimum


def scores(runs: Sequence[Run], config: DictConfig) -> dict[str, NDArray[np.float64]]:
    """Agent -> anytime scores, (seeds, rewards, evaluations)."""
    curves: dict[str, list[list[NDArray[np.float64]]]] = {agent: [] for agent in config.agents}
    for reward in config.rewards:
        of_reward = [run for run in runs if run.reward == reward]
        task = Task(config.env, "random", reward, 0, config.budget, tuple(config.overrides))
        zero, one = ends(task, of_reward)
        for agent in config.agents:
            chosen = sorted((run for run in of_reward if run.agent == agent), key=lambda run: run.seed)
            # A hard punishment may lie far below a middling configuration: one number for "nothing yet".
            floor = zero - (one - zero)
            curves[agent].append(
                [
                    (np.maximum(floor, anytime(run.rewards, run.feasible, config.budget, floor)) - zero) / (one - zero)
                    for run in chosen
                ]
            )
    return {agent: np.array(values).transpose(1, 0, 2) for agent, values in curves.items()}


def write(directory: Path, results: Mapping[str, NDArray[np.float64]], config: DictConfig) -> None:
    """The table (printed as well) and the pictures."""
    final = {agent: values[:, :, -1] for agent, values in results.items()}
    order = sorted(final, key=lambda agent: -iqm(final[agent]).value)
    rows = []
    for place, agent in enumerate(order):
        within = [evaluations_to_reach(curve, 0.99) for curve in results[agent].reshape(-1, config.budget)]
        reached = [count for count in within if count is not None]
        below = difference(final[order[place]], final[order[place + 1]]) if place + 1 < len(order) else None
        rows.append(
            (
                agent,
                str(iqm(final[agent])),
                f"{len(reached)} of {len(within)}",
                f"{np.median(reached):.0f}" if reached else "",
                "" if below is None else "yes" if below.low > 0 else "no",
            )
        )
    head = ("agent", "score (IQM, 95 %)", "runs within 1 %", "after (median)", "beats the next")
    text = format_table(head, rows)
    (directory / "table.txt").write_text(text + "\n")
    print(text)
    _draw(directory, results, order, config.budget)


def _draw(directory: Path, results: Mapping[str, NDArray[np.float64]], order: Sequence[str], budget: int) -> None:
    figure, panels = plt.subplots(1, 3, figsize=(15, 4.8), constrained_layout=True)
    colours = dict(zip(order, mpl.colormaps["tab20"](np.linspace(0, 1, len(order))), strict=True))
    points = np.unique(np.geomspace(1, budget, 24).astype(int)) - 1
    thresholds = np.linspace(-0.5, 1, 61)
    for agent in order:
        curve = iqm_curve(results[agent], points.tolist())
        values, low, high = np.array(curve).T
        panels[0].plot(points + 1, values, color=colours[agent], label=agent)
        panels[0].fill_between(points + 1, low, high, color=colours[agent], alpha=0.15)
        panels[1].plot(thresholds, profile(results[agent][:, :, -1], thresholds.tolist()), color=colours[agent])
    panels[0].set_xscale("log")
    panels[0].set_ylim(-1, 1.02)
    panels[0].set_xlabel("unique evaluations")
    panels[0].set_ylabel("best score so far (IQM, 95 %)")
    panels[1].set_xlabel("score after the last evaluation")
    panels[1].set_ylabel("share of the runs above it")
    best = results[order[0]][:, :, -1]
    for row, agent in enumerate(order[1:]):
        chance = improvement(best, results[agent][:, :, -1])
        panels[2].plot([chance.low, chance.high], [row, row], color=colours[agent], linewidth=6, alpha=0.5)
        panels[2].plot(chance.value, row, "k|", markersize=14)
    panels[2].axvline(0.5, color="black", linewidth=0.8, linestyle="--")
    panels[2].set_yticks(range(len(order) - 1), order[1:])
    panels[2].invert_yaxis()
    panels[2].set_xlim(0, 1)
    panels[2].set_xlabel(f"probability that {order[0]} is better")
    for panel in panels:
        panel.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=9, frameon=False)
    figure.savefig(directory / "benchmark.png", dpi=110)
    plt.close(figure)


@hydra.main(version_base="1.3", config_path="../conf", config_name="benchmark")
def main(config: DictConfig) -> None:
    """Make what is missing, then compare."""
    require_effect(config.env, config.overrides)
    directory = run_directory(config, config.env, besides=("workers", "agents", "rewards", "seeds"))
    folder = directory / "runs"
    folder.mkdir(exist_ok=True)
    tasks = {}
    for agent, reward in tqdm(list(itertools.product(config.agents, config.rewards)), desc="configs"):
        first = Task(config.env, agent, reward, config.first_seed, config.budget, tuple(config.overrides))
        name = f"{agent}-{reward}-{digest(first)}"
        for seed in range(config.first_seed, config.first_seed + config.seeds):
            tasks[folder / f"{name}-{seed}.json"] = replace(first, seed=seed)
    runs = [Run(**result) for result in results_of(tasks, play_as_json, config.workers)]
    write(directory, scores(runs, config), config)
    print(f"runs, table and pictures: {directory}")


if __name__ == "__main__":
    main()
