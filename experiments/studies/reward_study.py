"""Compare rewards: ``python -m experiments.studies.reward_study [agents=[ppo]] [workers=2]``.

On the table, for every reward and several values of the option that trades WER for size: the configuration with the
best reward on proxy, the final configurations of agents with the same budget of unique evaluations, and the WERs of
both on test. The same command resumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from omegaconf import DictConfig
from tqdm import tqdm

from experiments.common.command import command
from experiments.common.compose import to_container
from experiments.common.kinds import ANYTHING, list_of, mapping_of, number
from experiments.common.options import REWARD
from experiments.common.pareto import pareto_front
from experiments.common.pictures import plt, save_figure
from experiments.common.results import Cell
from experiments.common.searches import (
    Search,
    check_search,
    explored,
    search_cell,
    tabular_env,
)
from experiments.common.study import Report, publish, study_results
from experiments.studies.landscape import wer_and_size
from shrinkml_env import Evaluation, Evaluator, load_utterances
from shrinkml_env.space.table import Table

HEAD = (
    "reward",
    "option",
    "best: size ratio",
    "best: test WER %",
    "agent",
    "ends at: size ratio",
    "ends at: test WER %",
    "nothing feasible",
    "keeps the WER on test",
)


class Setting(NamedTuple):
    """A reward with one value of its option.

    Attributes:
        reward: Name of the reward.
        option: The option and its value, for tables.
        overrides: Overrides of `experiments.search` that set the value.
    """

    reward: str
    option: str
    overrides: tuple[str, ...]


class Model(NamedTuple):
    """A model's size ratio, and its WERs as fractions."""

    size_ratio: float
    proxy_wer: float
    test_wer: float


@dataclass(frozen=True, slots=True)
class SettingSearch:
    """A search with one setting of a reward."""

    setting: Setting
    search: Search


@cache
def _live_on_test() -> Evaluator:
    """Return the evaluator for configurations that the table does not hold on test."""
    return Table.load().evaluator().on(load_utterances("test"))


def model_of(on_proxy: Evaluation) -> Model:
    """Return a configuration of the table with its WER on test, from the table or measured."""
    table = Table.load()
    known = table.edits["test"][table.index(on_proxy.ranks)] >= 0
    evaluator = table.evaluator("test") if known else _live_on_test()
    on_test = evaluator.evaluate(on_proxy.ranks)
    return Model(on_proxy.size_ratio, on_proxy.wer, on_test.wer)


def settings(knobs: Mapping[str, Mapping[str, Sequence[Any]]]) -> list[Setting]:
    """Return one setting for each value in reward -> option -> values."""
    found = []
    for reward, options in knobs.items():
        for option, values in options.items():
            for value in values:
                found.append(Setting(reward, f"{option} {value}", (f"reward.{option}={value}",)))
    return found


def optimum(setting: Setting, agent: str = "random") -> Model:
    """Return the configuration of the table with the highest reward.

    Args:
        setting: The setting of the reward.
        agent: Any agent; one that has searched with this setting spares composing another config.
    """
    env = tabular_env(Search("tabular", agent, setting.reward, 0, 1, setting.overrides))
    return model_of(env.table.evaluator().evaluations[int(np.argmax(env.table_rewards))])


def make(task: SettingSearch) -> dict[str, Any]:
    """Run a search and return its best feasible configuration, JSON-able; None if there is none."""
    best = explored(task.search).problem.ranking[0]
    return {"end": model_of(best.evaluation) if best.feasible else None}


def end_of(result: Mapping[str, Any]) -> Model | None:
    """Return the model in a result of `make`."""
    return Model(*result["end"]) if result["end"] else None


def row(setting: Setting, best: Model, agent: str, ends: Sequence[Model | None], allowed: float) -> tuple[str, ...]:
    """Return one row of the table, with means over seeds, and the smallest and largest value.

    Args:
        setting: The setting of the reward.
        best: The configuration with the best reward.
        agent: Name of the agent.
        ends: The final configuration of each seed; None if it is not feasible.
        allowed: The largest WER on test that counts as keeping the WER, a fraction.
    """
    reached = [end for end in ends if end is not None]
    sizes, wers = (np.array([getattr(end, name) for end in reached]) for name in ("size_ratio", "test_wer"))
    return (
        setting.reward,
        setting.option,
        f"{best.size_ratio:.3f}",
        f"{100 * best.test_wer:.2f}",
        agent,
        f"{sizes.mean():.3f} ({sizes.min():.3f} to {sizes.max():.3f})" if reached else "",
        f"{100 * wers.mean():.2f} ({100 * wers.min():.2f} to {100 * wers.max():.2f})" if reached else "",
        f"{len(ends) - len(reached)} of {len(ends)}",
        f"{int((wers <= allowed + 1e-12).sum())} of {len(ends)}",
    )


def draw(path: Path, best: Mapping[Setting, Model], ends: Mapping[tuple[Setting, str], Sequence[Model | None]]) -> None:
    """Draw one panel for each reward, on proxy: Pareto front, best configurations, final configurations of agents."""
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
        for place, agent in enumerate(dict.fromkeys(agent for _, agent in ends)):
            of_agent = [
                end
                for (setting, who), group in ends.items()
                if (setting.reward, who) == (reward, agent)
                for end in group
                if end is not None
            ]
            _scatter(panel, of_agent, "x+1234"[place % 6], agent)
        _scatter(panel, [found for setting, found in best.items() if setting.reward == reward], "o", "best of all")
        panel.set_title(reward)
        panel.set_yscale("symlog", linthresh=10)
        panel.set_ylim(0, 110)
        panel.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        panel.grid(alpha=0.3)
    for panel in panels.flat[len(rewards) :]:
        panel.set_axis_off()
    for panel in panels[-1]:
        panel.set_xlabel("size ratio")
    for panel in panels[:, 0]:
        panel.set_ylabel("WER on proxy, %")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    save_figure(figure, path, dpi=110)


def _scatter(panel: Any, models: Sequence[Model], marker: str, label: str) -> None:
    sizes, wers = [model.size_ratio for model in models], [100 * model.proxy_wer for model in models]
    panel.plot(sizes, wers, marker, markersize=5, alpha=0.7, linestyle="", label=label)


def grid(config: DictConfig) -> list[Cell[SettingSearch]]:
    """Return the cells, setting by setting and agent by agent.

    Raises:
        ValueError: The config of a search is not valid.
    """
    cells = []
    for setting in settings(to_container(config.knobs)):
        for agent in config.agents:
            first = Search("tabular", agent, setting.reward, 0, config.budget, setting.overrides)
            knobs = [f"reward={setting.reward}", *setting.overrides]
            check_search(first, {f"knobs.{setting.reward}": knobs, "agents": [f"agent={agent}"]})
            tabular_env(first)  # the table may lack what the reward depends on
            searches = [replace(first, seed=seed) for seed in range(config.seeds)]
            cells += [search_cell(search, SettingSearch(setting, search)) for search in searches]
    return cells


@command("reward_study", knobs=mapping_of(mapping_of(list_of(ANYTHING)), keys=REWARD), tolerance=number(least=0))
def main(config: DictConfig) -> None:
    """Run missing searches, then compare."""
    cells = grid(config)
    ends: dict[tuple[Setting, str], list[Model | None]] = {}
    for cell, end in zip(cells, study_results("reward_study", config, cells, make, end_of), strict=True):
        ends.setdefault((cell.task.setting, cell.task.search.agent), []).append(end)
    allowed = Table.load().evaluator("test").baseline.wer + config.tolerance
    tried = dict(ends.keys())
    best = {setting: optimum(setting, agent) for setting, agent in tqdm(tried.items(), desc="optima", unit="setting")}
    rows = [row(setting, best[setting], agent, group, allowed) for (setting, agent), group in ends.items()]
    shown = pd.DataFrame(rows, columns=list(HEAD))
    publish("reward_study", config, Report([shown], {"reward_study": lambda path: draw(path, best, ends)}))


if __name__ == "__main__":
    main()
