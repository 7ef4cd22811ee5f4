"""Tune agents by random search on the table: ``python -m experiments.studies.tune [agents=[ppo]]``.

Every agent gets the same number of settings. Each is run on the same rewards and seeds, which differ from those of
`experiments.studies.benchmark`, and ranked by the mean score (see there) after the budget. Prints the best settings as
overrides, with their scores and those of the present settings. The same command resumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from experiments.common.command import command
from experiments.common.compose import to_container
from experiments.common.identity import key_of
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


def drawn_settings(study: optuna.Study, space: Mapping[str, Sequence[Any]], count: int) -> dict[int, Setting]:
    """Draw settings until the study has `count`, or all possible ones; return number of a trial -> its setting.

    Args:
        study: Optuna's study of an agent; its sampler draws no setting twice.
        space: Override -> values.
        count: Number of settings, earlier ones included.
    """
    total = int(np.prod([len(values) for values in space.values()]))
    while len(study.trials) < min(count, total):
        trial = study.ask()
        for key, values in space.items():
            trial.suggest_categorical(key, [str(value) for value in values])
    return {
        trial.number: tuple(f"{key}={value}" for key, value in trial.params.items()) for trial in study.trials[:count]
    }


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


def study_of(config: DictConfig, agent: str) -> optuna.Study:
    """Return Optuna's study of an agent, loaded from the journal in the outputs if it exists."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    outputs = Path(config.outputs)
    outputs.mkdir(parents=True, exist_ok=True)
    content = [
        space_of(config, agent),
        to_container(config.rewards),
        to_container(config.seeds),
        config.budget,
        config.seed,
    ]
    return optuna.create_study(
        study_name=f"{agent}-{key_of(content)}",
        storage=JournalStorage(JournalFileBackend(str(outputs / "optuna.log"))),
        sampler=optuna.samplers.BruteForceSampler(seed=config.seed),
        direction="maximize",
        load_if_exists=True,
    )


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


def mean_scores(config: DictConfig, settings: Mapping[str, Mapping[int, Setting]]) -> dict[tuple[str, Setting], float]:
    """Return the mean score of each agent with each of its settings, the present one first; run missing searches.

    Args:
        config: The command's config.
        settings: Agent -> number of a trial -> its setting.
    """
    cells = {
        (agent, setting): setting_cells(config, agent, setting)
        for agent, drawn in settings.items()
        for setting in (PRESENT, *drawn.values())
    }
    every = [cell for group in cells.values() for cell in group]
    scores = iter(study_results("tune", config, every, make, lambda result: float(result["score"]), "runs"))
    return {key: float(np.mean([next(scores) for _ in group])) for key, group in cells.items()}


def tell(study: optuna.Study, scores: Mapping[int, float]) -> None:
    """Report the scores of trials, by their numbers, to Optuna."""
    # After the last setting the brute-force sampler would stop Optuna's `optimize` loop, which does not run here.
    study.sampler = optuna.samplers.RandomSampler()
    for number, score in scores.items():
        study.tell(number, score, skip_if_finished=True)


def table(
    agents: Sequence[str],
    settings: Mapping[str, Mapping[int, Setting]],
    means: Mapping[tuple[str, Setting], float],
) -> pd.DataFrame:
    """Return a table with a row for each agent: its present score, and its best setting with its score."""
    rows = []
    for agent in agents:
        best = max((PRESENT, *settings[agent].values()), key=lambda setting: means[agent, setting])
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
    studies = {agent: study_of(config, agent) for agent in config.agents}
    settings = {
        agent: drawn_settings(study, space_of(config, agent), config.trials) for agent, study in studies.items()
    }
    means = mean_scores(config, settings)
    for agent, study in studies.items():
        tell(study, {number: means[agent, setting] for number, setting in settings[agent].items()})
    text = format_table(table(config.agents, settings, means))
    directory = run_directory(config, "tune")
    write_atomic(directory / "best.txt", text + "\n")
    print(text)
    print(f"table: {directory}; Optuna's studies: {Path(config.outputs) / 'optuna.log'}")


if __name__ == "__main__":
    main()
