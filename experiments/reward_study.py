"""What each reward leads to: ``python -m experiments.reward_study [agents=[ppo]] [workers=2]``.

On the table, for every reward and several values of the option that trades WER for size: the best configuration there
is, and what agents end at within the same budget of unique evaluations. The same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import matplotlib as mpl
import numpy as np
from omegaconf import DictConfig

mpl.use("Agg")
from matplotlib import pyplot as plt
from tqdm import tqdm

from experiments.landscape import pareto_front, wer_and_size
from experiments.report import format_table
from experiments.resumable import results_of
from experiments.run_directory import plain, run_directory
from experiments.runs import Run, Task, compose_search, digest, make_env, play_as_json
from shrinkml_env.table import Table
from shrinkml_env.tabular import TabularEnv

HEAD = (
    "reward",
    "option",
    "best: size ratio",
    "best: WER %",
    "agent",
    "ends at: size ratio",
    "ends at: WER %",
    "nothing feasible",
    "keeps the WER",
)


class Setting(NamedTuple):
    """A reward with one value of its option: the value for people, and the overrides of conf/search.yaml."""

    reward: str
    option: str
    overrides: tuple[str, ...]


class Point(NamedTuple):
    """A model, as it is drawn."""

    size_ratio: float
    wer: float


def settings(knobs: Mapping[str, Mapping[str, Sequence[Any]]]) -> list[Setting]:
    """Reward -> option -> values, one by one."""
    found = []
    for reward, options in knobs.items():
        for option, values in options.items():
            for value in values:
                overrides: tuple[str, ...] = (f"reward.{option}={value}",)
                if option == "budget":
                    overrides = ("constraint=check", f"constraint.budget={value}")
                found.append(Setting(reward, f"{option} {value}", overrides))
    return found


def optimum(setting: Setting) -> Point:
    """The best feasible configuration of the table."""
    task = Task("tabular", "random", setting.reward, 0, 1, setting.overrides)
    env = make_env(task, compose_search(task)).unwrapped
    assert isinstance(env, TabularEnv)
    configurations = list(env.table.configurations())
    order = np.argsort(-env.rewards, kind="stable")
    best = next(configurations[number] for number in order if env.problem.is_feasible(configurations[number]))
    evaluation = env.problem.evaluator.evaluate(best)
    return Point(evaluation.size_ratio, evaluation.wer)


def end(run: Run) -> Point | None:
    """A run's best feasible configuration; None where it has found none."""
    feasible = [index for index, meets in enumerate(run.feasible) if meets]
    if not feasible:
        return None
    best = max(feasible, key=lambda index: run.rewards[index])
    return Point(run.size_ratio[best], run.wer[best])


def row(setting: Setting, best: Point, agent: str, runs: Sequence[Run], allowed: float) -> tuple[str, ...]:
    """One line of the table; means, and from the smallest to the largest of the seeds."""
    ends = [point for run in runs if (point := end(run)) is not None]
    sizes, wers = np.array(ends).reshape(-1, 2).T
    return (
        setting.reward,
        setting.option,
        f"{best.size_ratio:.3f}",
        f"{100 * best.wer:.2f}",
        agent,
        f"{sizes.mean():.3f} ({sizes.min():.3f} to {sizes.max():.3f})" if ends else "",
        f"{100 * wers.mean():.2f} ({100 * wers.min():.2f} to {100 * wers.max():.2f})" if ends else "",
        f"{len(runs) - len(ends)} of {len(runs)}",
        f"{int((wers <= allowed + 1e-12).sum())} of {len(runs)}",
    )


def draw(path: Path, best: Mapping[Setting, Point], runs: Mapping[tuple[Setting, str], Sequence[Run]]) -> None:
    """One panel for each reward: the front, the best for each value of its option, and what the agents end at."""
    wer, size = wer_and_size(Table.load())
    front = pareto_front(wer, size)
    rewards = list(dict.fromkeys(setting.reward for setting in best))
    columns = 4
    figure, panels = plt.subplots(
        -(-len(rewards) // columns),
        columns,
        figsize=(14, 7),
        sharex=True,
        sharey=True,
        squeeze=False,
        constrained_layout=True,
    )
    for panel, reward in zip(panels.flat, rewards, strict=False):
        panel.step(size[front], 100 * wer[front], where="post", color="0.6", linewidth=1, label="Pareto front")
        for agent, marker in zip(dict.fromkeys(agent for _, agent in runs), "x+1234", strict=False):
            of_agent = [
                run
                for (setting, who), group in runs.items()
                if (setting.reward, who) == (reward, agent)
                for run in group
            ]
            _scatter(panel, [point for run in of_agent if (point := end(run)) is not None], marker, agent)
        _scatter(panel, [point for setting, point in best.items() if setting.reward == reward], "o", "best of all")
        panel.set_title(reward)
        panel.set_yscale("symlog", linthresh=10)
        panel.set_ylim(0, 110)
        panel.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        panel.grid(alpha=0.3)
    for panel in panels[-1]:
        panel.set_xlabel("size ratio")
    for panel in panels[:, 0]:
        panel.set_ylabel("WER on proxy, %")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _scatter(panel: Any, points: Sequence[Point], marker: str, label: str) -> None:
    sizes, wers = np.array(points).reshape(-1, 2).T
    panel.plot(sizes, 100 * wers, marker, markersize=5, alpha=0.7, linestyle="", label=label)


@hydra.main(version_base="1.3", config_path="../conf", config_name="reward_study")
def main(config: DictConfig) -> None:
    """Make what is missing, then compare."""
    directory = run_directory(config, "reward_study", besides=("workers", "agents", "seeds", "knobs"))
    folder = directory / "runs"
    folder.mkdir(exist_ok=True)
    tasks: dict[Path, tuple[Setting, Task]] = {}
    for setting in tqdm(settings(plain(config.knobs)), desc="configs"):
        for agent in config.agents:
            first = Task("tabular", agent, setting.reward, 0, config.budget, setting.overrides)
            name = f"{agent}-{setting.reward}-{digest(first)}"
            for seed in range(config.seeds):
                tasks[folder / f"{name}-{seed}.json"] = setting, replace(first, seed=seed)
    results = results_of({path: task for path, (_, task) in tasks.items()}, play_as_json, config.workers)
    runs: dict[tuple[Setting, str], list[Run]] = {}
    for (setting, task), result in zip(tasks.values(), results, strict=True):
        runs.setdefault((setting, task.agent), []).append(Run(**result))
    allowed = Table.load().evaluator().baseline.wer + config.tolerance
    best = {setting: optimum(setting) for setting, _ in runs}
    table = [row(setting, best[setting], agent, group, allowed) for (setting, agent), group in runs.items()]
    text = format_table(HEAD, table)
    (directory / "table.txt").write_text(text + "\n")
    print(text)
    draw(directory / "reward_study.png", best, runs)
    print(f"runs, table and picture: {directory}")


if __name__ == "__main__":
    main()
