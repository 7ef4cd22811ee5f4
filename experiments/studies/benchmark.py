"""Agents x tasks x seeds: ``python -m experiments.studies.benchmark [env=live] [agents=[ppo,random]] [workers=2]``.

A task is a reward on a table, or live.

Every run is played to its budget of unique evaluations (or 20 times as many episodes) and written to a file; the same
command goes on where it was stopped. A table and pictures compare the agents in rliable's manner.

A score is 1 - the normalised regret of the task: 1 for the best configuration that there is, 0 for the median one. On
a table both are known; live, the best that any run has found and the median of the random agent's evaluations stand for
them. The hypervolume, up to the median WER and the original's size, is a share of that of all these configurations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig
from tqdm import tqdm

from experiments.common.command import command
from experiments.common.compose import option_of
from experiments.common.kinds import NAME, SEED, choice, list_of, one_or_more
from experiments.common.learning import FROZEN, LEARNING, Returns, draw_learning, learning_cells
from experiments.common.options import REWARD
from experiments.common.pareto import hypervolume, hypervolumes
from experiments.common.pictures import plt, save_figure
from experiments.common.results import Cell
from experiments.common.searches import (
    Search,
    check_search,
    explored,
    search_cell,
    tabular_env,
)
from experiments.common.statistics import (
    FEW,
    anytime,
    difference,
    evaluations_to_reach,
    improvement,
    iqm,
    iqm_curve,
    profile,
)
from experiments.common.study import Report, publish, study_results
from experiments.studies.landscape import wer_and_size
from shrinkml_env.space.table import Table

LEAST_REGRET = 1e-3
"""The smallest regret that the pictures show."""


class Task(NamedTuple):
    """A reward on a table; live there is no table, and its name is empty."""

    table: str
    reward: str


@dataclass(frozen=True, slots=True)
class Run:
    """The measurements of one search; `table` is empty live, and in results.

    `rewards`, `feasible`, `wer` and `size_ratio` have one entry for each unique evaluation, in order, and `returns` one
    for each episode; results of earlier versions have no returns.
    """

    agent: str
    reward: str
    seed: int
    rewards: list[float]
    feasible: list[bool]
    wer: list[float]
    size_ratio: list[float]
    returns: list[float] = field(default_factory=list)
    table: str = ""

    @property
    def task(self) -> Task:
        """The task of the search."""
        return Task(self.table, self.reward)


def frozen_name(agent: str) -> str:
    """Return the name in tables of an agent that is played with a learning rate of 0."""
    return f"{agent}, frozen"


def play(search: Search) -> Run:
    """Make a search, and keep what it has measured."""
    problem, returns = explored(search)
    history = problem.history
    return Run(
        agent=search.agent,
        reward=search.reward,
        seed=search.seed,
        rewards=[float(trial.reward) for trial in history],
        feasible=[trial.feasible for trial in history],
        wer=[trial.evaluation.wer for trial in history],
        size_ratio=[trial.evaluation.size_ratio for trial in history],
        returns=returns,
    )


def make(search: Search) -> dict[str, Any]:
    """Return a `Run`, as JSON; what is known of the search beforehand is the table."""
    return {name: value for name, value in asdict(play(search)).items() if name != "table"}


def tasks_of(config: DictConfig) -> list[Task]:
    """Return the tasks, table by table."""
    return [Task(table, reward) for table in tables_of(config) for reward in config.rewards]


def tables_of(config: DictConfig) -> list[str]:
    """Return the names of the tables; live a single empty one."""
    if config.env == "live":
        return [""]
    return [config.table] if isinstance(config.table, str) else list(config.table)


def require_effect(task_env: str, overrides: Sequence[str]) -> None:
    """Check that every override has an effect.

    Raises:
        ValueError: An override is of something that a table or the benchmark itself sets.
    """
    ours = ("agent", "reward", "seed", "budget", "finalists", "num_envs", "workers", "memory_mb", "device", "outputs")
    sets = ("data", "proxy", "dev", "test")
    fixed = ("model", *sets, "granularity", "dense", "search_space", "shaping", "factorisation")
    for override in overrides:
        key = option_of(override)
        if key in ours:
            raise ValueError(f"overrides: {override!r} has no effect: the benchmark sets {key}")
        if task_env == "tabular" and key.split(".")[0] in fixed:
            raise ValueError(
                f"overrides: {override!r} has no effect on a table, which fixes {', '.join(fixed)}: env=live"
            )


def ends(search: Search, runs: Sequence[Run]) -> tuple[float, float]:
    """Return the rewards that score 0 and 1 in runs like this one.

    Raises:
        ValueError: There is no scale: nothing feasible is better than the median.
    """
    if search.env == "tabular":
        zero, one = _ends_on_table(replace(search, seed=0), Table.load(search.table).content)
    else:
        drawn = [value for run in runs if run.agent == "random" for value in run.rewards]
        feasible = [value for run in runs for value, meets in zip(run.rewards, run.feasible, strict=True) if meets]
        zero, one = float(np.median(drawn)), max(feasible, default=-np.inf)
    if one <= zero:
        where = f" on {search.table}" if search.env == "tabular" else ""
        raise ValueError(
            f"reward {search.reward}{where}: nothing that meets the constraint is better than the median "
            "configuration, so there is no score: allow more"
        )
    return zero, one


@cache
def _ends_on_table(search: Search, content: str) -> tuple[float, float]:
    # `content`, the hash of the table, is in the cache's key: a file may change under the same name.
    table = tabular_env(search)
    return float(np.median(table.rewards)), table.optimum


def scales(runs: Sequence[Run], config: DictConfig) -> dict[Task, tuple[float, float]]:
    """Return, for each task, the rewards that score 0 and 1; see `ends`."""
    return {
        task: ends(
            Search(config.env, config.agents[0], task.reward, 0, config.budget, tuple(config.overrides), task.table),
            [run for run in runs if run.task == task],
        )
        for task in tasks_of(config)
    }


def scores(
    runs: Sequence[Run], config: DictConfig, scales: Mapping[Task, tuple[float, float]]
) -> dict[str, NDArray[np.float64]]:
    """Return the anytime scores of each agent, (seeds, tasks, evaluations)."""
    curves: dict[str, list[list[NDArray[np.float64]]]] = {run.agent: [] for run in runs}
    for task, (zero, one) in scales.items():
        of_task = [run for run in runs if run.task == task]
        for agent in curves:
            chosen = sorted((run for run in of_task if run.agent == agent), key=lambda run: run.seed)
            # A hard punishment may lie far below the median configuration: one number for "nothing yet".
            floor = zero - (one - zero)
            curves[agent].append(
                [
                    (np.maximum(floor, anytime(run.rewards, run.feasible, config.budget, floor)) - zero) / (one - zero)
                    for run in chosen
                ]
            )
    return {agent: np.array(values).transpose(1, 0, 2) for agent, values in curves.items()}


def fronts(runs: Sequence[Run], config: DictConfig) -> dict[str, NDArray[np.float64]]:
    """Agent -> anytime shares of the whole hypervolume, (seeds, tasks, evaluations).

    Size and WER are what counts here, so configurations that a constraint forbids are in it too.
    """
    wholes = {table: _whole(runs, table) for table in tables_of(config)}
    chosen = {(run.agent, run.task, run.seed): run for run in runs}
    seeds = sorted({run.seed for run in runs})

    def share(run: Run) -> NDArray[np.float64]:
        whole, median = wholes[run.table]
        return hypervolumes(run.wer, run.size_ratio, config.budget, median) / whole

    return {
        agent: np.array([[share(chosen[agent, task, seed]) for task in tasks_of(config)] for seed in seeds])
        for agent in dict.fromkeys(run.agent for run in runs)
    }


def _whole(runs: Sequence[Run], table: str) -> tuple[float, float]:
    """Return the hypervolume of all configurations, and the median WER up to which it is measured."""
    if table:
        all_wer, all_size = (values.tolist() for values in wer_and_size(Table.load(table)))
        median = float(np.median(all_wer))
    else:
        all_wer = [wer for run in runs for wer in run.wer]
        all_size = [size for run in runs for size in run.size_ratio]
        median = float(np.median([wer for run in runs if run.agent == "random" for wer in run.wer]))
    return hypervolume(all_wer, all_size, median), median


def table(results: Mapping[str, NDArray[np.float64]], shares: Mapping[str, NDArray[np.float64]]) -> pd.DataFrame:
    """Return a row for each agent, the best first.

    Args:
        results: See `scores`.
        shares: See `fronts`.
    """
    final = {agent: values[:, :, -1] for agent, values in results.items()}
    order = ranked(results)
    enough = len(final[order[0]]) >= FEW
    rows = []
    for place, agent in enumerate(tqdm(order, desc="intervals", unit="agent")):
        within = [evaluations_to_reach(curve, 0.99) for curve in np.concatenate(results[agent])]
        reached = [count for count in within if count is not None]
        rows.append(
            {
                "agent": agent,
                "score (IQM, 95 %)": str(iqm(final[agent])),
                "runs within 1 %": f"{len(reached)} of {len(within)}",
                "after (their median)": f"{np.median(reached):.0f}" if reached else "",
                "hypervolume (IQM, 95 %)": str(iqm(shares[agent][:, :, -1])),
                "beats": _beaten(final, order[place:]) if enough else "",
            }
        )
    return pd.DataFrame(rows)


def scores_by_table(
    results: Mapping[str, NDArray[np.float64]], scales: Mapping[Task, tuple[float, float]]
) -> pd.DataFrame:
    """Return a row for each agent, the best first, with a column of scores for each of several tables."""
    tables = list(dict.fromkeys(task.table for task in scales))
    if len(tables) == 1:
        return pd.DataFrame()
    places = {table: [place for place, task in enumerate(scales) if task.table == table] for table in tables}
    rows = [
        {"agent": agent, **{table: str(iqm(results[agent][:, places[table], -1])) for table in tables}}
        for agent in ranked(results)
    ]
    return pd.DataFrame(rows)


def learning_table(runs: Sequence[Run], frozen: Sequence[str]) -> pd.DataFrame:
    """Return a row for each task and each agent that is also played with a learning rate of 0, see `LEARNING`."""
    rows = [(agent, *task, *learning_cells(returns)) for (agent, task), returns in returns_beside(runs, frozen).items()]
    return pd.DataFrame(rows, columns=["agent", "table", "reward", *LEARNING])


def returns_beside(runs: Sequence[Run], frozen: Sequence[str]) -> dict[tuple[str, Task], Returns]:
    """Return the returns of each agent on each task beside those with a learning rate of 0."""
    return {
        (agent, task): Returns(
            *(
                [run.returns for run in runs if (run.agent, run.task) == (name, task)]
                for name in (agent, frozen_name(agent))
            )
        )
        for agent, task in itertools.product(frozen, dict.fromkeys(run.task for run in runs))
    }


def ranked(results: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Return the agents by falling score after the last evaluation."""
    return sorted(results, key=lambda agent: -iqm(results[agent][:, :, -1]).value)


def notes(results: Mapping[str, NDArray[np.float64]], scales: Mapping[Task, tuple[float, float]]) -> list[str]:
    """Return what the scores are relative to."""
    lines = [
        f"{', '.join(filter(None, task))}: score 0 is a reward of {zero:.4f}, 1 of {one:.4f}"
        for task, (zero, one) in scales.items()
    ]
    if min(len(values) for values in results.values()) < FEW:
        lines.append(f"who beats whom is said from {FEW} seeds on")
    return lines


def _beaten(final: Mapping[str, NDArray[np.float64]], order: Sequence[str]) -> str:
    """Return from which one on the first agent beats all that follow it."""
    agent, *others = order
    beaten = list(itertools.takewhile(lambda other: difference(final[agent], final[other]).low > 0, reversed(others)))
    return f"{beaten[-1]}{' and below' * (len(beaten) > 1)}" if beaten else ""


def draw(path: Path, results: Mapping[str, NDArray[np.float64]], shares: Mapping[str, NDArray[np.float64]]) -> None:
    """Draw regret and hypervolume against evaluations, their distributions, and who is better than whom."""
    order = ranked(results)
    budget = results[order[0]].shape[-1]
    figure, panels = plt.subplots(2, 2, figsize=(13, 10), constrained_layout=True)
    panels = panels.ravel()
    colours = {agent: mpl.colormaps["tab10"](place % 10) for place, agent in enumerate(order)}
    lines = {agent: ("-", "--", ":")[place // 10 % 3] for place, agent in enumerate(order)}
    points = np.unique(np.geomspace(1, budget, 24).astype(int)) - 1
    regrets = np.geomspace(LEAST_REGRET, 1, 61)
    for agent in order:
        # Most agents come close to the best: only a logarithm tells them apart.
        regret = {agent: np.maximum(LEAST_REGRET, 1 - results[agent])}
        for panel, curves, label in ((panels[0], regret, agent), (panels[1], shares, None)):
            values, low, high = np.array(iqm_curve(curves[agent], points.tolist())).T
            panel.plot(points + 1, values, lines[agent], color=colours[agent], label=label)
            panel.fill_between(points + 1, low, high, color=colours[agent], alpha=0.15)
        below = profile(results[agent][:, :, -1], (1 - regrets).tolist())
        panels[2].plot(regrets, below, lines[agent], color=colours[agent])
    for panel, name in zip(panels, ("normalised regret so far", "hypervolume so far"), strict=False):
        panel.set_xscale("log")
        panel.set_xlabel("unique evaluations")
        panel.set_ylabel(f"{name} (IQM, 95 %)")
    panels[0].set_yscale("log")
    panels[0].set_ylim(LEAST_REGRET, 2)
    panels[2].set_xscale("log")
    panels[2].set_xlabel("normalised regret after the last evaluation")
    panels[2].set_ylabel("share of the runs below it")
    best = results[order[0]][:, :, -1]
    for row, agent in enumerate(order[1:]):
        chance = improvement(best, results[agent][:, :, -1])
        panels[3].plot([chance.low, chance.high], [row, row], color=colours[agent], linewidth=6, alpha=0.5)
        panels[3].plot(chance.value, row, "k|", markersize=14)
    panels[3].axvline(0.5, color="black", linewidth=0.8, linestyle="--")
    panels[3].set_yticks(range(len(order) - 1), order[1:])
    panels[3].invert_yaxis()
    panels[3].set_xlim(-0.02, 1.02)
    panels[3].set_xlabel(f"probability that {order[0]} is better")
    for panel in panels:
        panel.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=9, frameon=False)
    save_figure(figure, path, dpi=110)


def grid(config: DictConfig) -> list[Cell[Search]]:
    """Return the cells, agent by agent, reward by reward and table by table.

    Raises:
        ValueError: An override has no effect, `frozen` cannot be compared, an agent or a reward cannot be made, or a
            reward cannot be played on a table.
    """
    if config.env == "live" and "random" not in config.agents:
        raise ValueError("live scores are relative to the random agent: add it to agents=[...]")
    require_effect(config.env, config.overrides)
    if config.frozen and any("agent.learning_rate" in override for override in config.overrides):
        raise ValueError("frozen: overrides change agent.learning_rate of all agents; leave out one of the two")
    missing = set(config.frozen) - set(config.agents)
    if missing:
        raise ValueError(f"frozen: {min(missing)!r} is compared with itself: add it to agents=[...]")
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    players: list[tuple[str, str, tuple[str, ...]]] = [("agents", agent, ()) for agent in config.agents]
    players += [("frozen", agent, (FROZEN,)) for agent in config.frozen]
    cells = []
    for (option, agent, own), reward in tqdm(list(itertools.product(players, config.rewards)), desc="configs"):
        overrides = (*config.overrides, *own)
        first = Search(config.env, agent, reward, 0, config.budget, overrides)
        given = {"overrides": config.overrides, option: [f"agent={agent}", *own], "rewards": [f"reward={reward}"]}
        check_search(first, given)
        name = frozen_name(agent) if own else agent
        of_player = [
            search_cell(replace(first, seed=seed, table=table)) for table in tables_of(config) for seed in seeds
        ]
        cells += [replace(cell, about={**cell.about, "agent": name, "table": cell.task.table}) for cell in of_player]
    require_tables(config)
    return cells


def require_tables(config: DictConfig) -> None:
    """Check that every reward can be played on every table, under the constraint and with the actions of the overrides.

    Raises:
        ValueError: Two tables are the same one, a table lacks the levels or the divergences that are needed, or nothing
            in it that meets the constraint has a score; or tables are given that live searches do not use.
    """
    if config.env == "live":
        if not isinstance(config.table, str):
            raise ValueError(f"table={list(config.table)}: live searches measure, and use no table: leave it out")
        return
    names: dict[str, str] = {}
    for table in tables_of(config):
        known = names.setdefault(Table.load(table).content, table)
        if known != table:
            raise ValueError(f"table: {known} and {table} are the same one")
    for task in tasks_of(config):
        search = Search("tabular", config.agents[0], task.reward, 0, config.budget, tuple(config.overrides), task.table)
        try:
            tabular_env(search)
        except ValueError as error:
            raise ValueError(f"table {task.table}, reward {task.reward}: {error}") from error
        ends(search, [])


@command(
    "benchmark",
    env=choice("tabular", "live"),
    rewards=list_of(REWARD),
    first_seed=SEED,
    table=one_or_more(NAME),
    frozen=list_of(NAME, least=0),
)
def main(config: DictConfig) -> None:
    """Run the missing searches, then compare."""
    cells = grid(config)
    found = study_results("benchmark", config, cells, make, lambda result: Run(**result), "runs")
    runs = [
        replace(run, agent=str(cell.about["agent"]), table=cell.task.table)
        for cell, run in zip(cells, found, strict=True)
    ]
    scale = scales(runs, config)
    results, shares = scores(runs, config, scale), fronts(runs, config)
    tables = [table(results, shares), scores_by_table(results, scale), learning_table(runs, config.frozen)]
    pictures: dict[str, Callable[[Path], None]] = {"benchmark": lambda path: draw(path, results, shares)}
    panels = {
        ", ".join(filter(None, (agent, *task))): returns
        for (agent, task), returns in returns_beside(runs, config.frozen).items()
        if returns.enough
    }
    if panels:
        pictures["learning"] = lambda path: draw_learning(path, panels)
    publish("benchmark", config, Report(tables, pictures, notes(results, scale)))


if __name__ == "__main__":
    main()
