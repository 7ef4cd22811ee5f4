"""Tune agents by random search on the table: ``python -m experiments.studies.tune [agents=[ppo]]``.

Every agent gets the same number of settings. Each is run on the same rewards and seeds, which differ from those of
`experiments.studies.benchmark`, and ranked by the mean score (see there) after the budget. Prints the best settings as
overrides, with their scores and those of the present settings. The same command resumes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from experiments.common.command import command
from experiments.common.compose import to_container
from experiments.common.kinds import ANYTHING, NAME, SEED, list_of, mapping_of, whole
from experiments.common.options import AGENT
from experiments.common.results import Cell
from experiments.common.run_directory import run_directory
from experiments.common.searches import Search, check_search, search_cell
from experiments.common.statistics import anytime
from experiments.common.study import study_results
from experiments.studies.benchmark import ends, play
from shrinkml_env.files import write_atomic
from shrinkml_env.text_table import format_table

Setting = tuple[str, ...]
"""Overrides of an agent's config."""

PRESENT: Setting = ()
"""The settings in conf/agent."""


def drawn_settings(space: Mapping[str, Sequence[Any]], count: int, seed: int) -> list[Setting]:
    """Draw different settings at random, all equally probable; all that there are if `count` is larger.

    Args:
        space: Override -> values.
        count: Number of settings.
        seed: Seed of the draw.
    """
    sizes = [len(values) for values in space.values()]
    order = np.random.default_rng(seed).permutation(math.prod(sizes))[:count]
    return [
        tuple(f"{key}={values[place]}" for (key, values), place in zip(space.items(), places, strict=True))
        for places in np.stack(np.unravel_index(order, sizes), axis=1).tolist()
    ]


def final_score(search: Search) -> float:
    """Run a search and return its final score: 1 for the optimum, 0 for the table's median, at least -1."""
    run = play(search)
    # The agent's settings change nothing in the table: searches with other settings share a scale.
    overrides = tuple(override for override in search.overrides if not override.lstrip("+~").startswith("agent."))
    zero, one = ends(replace(search, overrides=overrides), [])
    floor = zero - (one - zero)
    best = float(anytime(run.rewards, run.feasible, search.budget, floor)[-1])
    return (max(floor, best) - zero) / (one - zero)


def make(search: Search) -> dict[str, Any]:
    """Run a search and return its score, JSON-able."""
    return {"score": final_score(search)}


def setting_cells(config: DictConfig, agent: str, setting: Setting) -> list[Cell[Search]]:
    """Return the searches that evaluate a setting; all settings have the same rewards and seeds."""
    cells = []
    for name, *options in to_container(config.rewards):
        first = Search("tabular", agent, name.partition("=")[2], 0, config.budget, (*options, *setting))
        check_search(first, {"rewards": [name, *options], f"spaces.{agent}": setting, "agents": [f"agent={agent}"]})
        cells += [search_cell(replace(first, seed=seed)) for seed in config.seeds]
    return cells


def space_of(config: DictConfig, agent: str) -> dict[str, list[Any]]:
    """Return the settings to try for an agent: override -> values, with unresolved interpolations."""
    space = OmegaConf.to_container(config.spaces[agent], resolve=False)
    assert isinstance(space, dict)
    return {str(key): list(values) for key, values in space.items()}


def check_tuning(config: DictConfig) -> None:
    """Check that there are settings to try for every agent.

    Raises:
        ValueError: There are none for an agent.
    """
    unknown = [agent for agent in config.agents if agent not in config.spaces]
    if unknown:
        raise ValueError(f"nothing to try for {unknown[0]}: give '+spaces.{unknown[0]}={{agent.OPTION: [VALUES]}}'")


def mean_scores(config: DictConfig, settings: Mapping[str, Sequence[Setting]]) -> dict[tuple[str, Setting], float]:
    """Return the mean score of each agent with each of its settings, the present one first; run missing searches.

    Args:
        config: The command's config.
        settings: Agent -> the settings to try.
    """
    cells = {
        (agent, setting): setting_cells(config, agent, setting)
        for agent, drawn in settings.items()
        for setting in (PRESENT, *drawn)
    }
    every = [cell for group in cells.values() for cell in group]
    scores = iter(study_results("tune", config, every, make, lambda result: float(result["score"]), "runs"))
    return {key: float(np.mean([next(scores) for _ in group])) for key, group in cells.items()}


def table(
    agents: Sequence[str],
    settings: Mapping[str, Sequence[Setting]],
    means: Mapping[tuple[str, Setting], float],
) -> pd.DataFrame:
    """Return a table with a row for each agent: its present score, and its best setting with its score."""
    rows = []
    for agent in agents:
        best = max((PRESENT, *settings[agent]), key=lambda setting: means[agent, setting])
        shown = (f"{means[agent, setting]:.3f}" for setting in (PRESENT, best))
        rows.append((agent, *shown, " ".join(best) or "the present ones"))
    return pd.DataFrame(rows, columns=["agent", "present score", "best score", "best settings"])


@command(
    "tune",
    trials=whole(1),
    rewards=list_of(list_of(NAME)),
    seeds=list_of(SEED),
    spaces=mapping_of(mapping_of(list_of(ANYTHING)), keys=AGENT),
)
def main(config: DictConfig) -> None:
    """Run missing searches, then rank the settings."""
    check_tuning(config)
    settings = {agent: drawn_settings(space_of(config, agent), config.trials, config.seed) for agent in config.agents}
    means = mean_scores(config, settings)
    text = format_table(table(config.agents, settings, means))
    directory = run_directory(config, "tune")
    write_atomic(directory / "best.txt", text + "\n")
    print(text)
    print(f"table: {directory}")


if __name__ == "__main__":
    main()
