"""Settings of agents, by random search on the table: ``python -m experiments.studies.tune [agents=[ppo]]``.

Every agent gets the same number of settings, each played on the same rewards and seeds, which are not those that
`experiments.studies.benchmark` reports; what counts is the mean score (see there) after the budget. Prints the best
settings as overrides, beside the score of the present ones. The same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from experiments.common.report import format_table
from experiments.common.run_directory import plain, read_json, run_directory, write_json
from experiments.common.runs import Task, digest, play, require_lists
from experiments.common.statistics import anytime
from experiments.studies.benchmark import ends
from shrinkml_env.evaluation.workers import Workers


def settings(space: Mapping[str, Sequence[Any]], count: int, seed: int) -> list[tuple[str, ...]]:
    """The present settings (no overrides), then at most `count` different ones drawn at random."""
    rng = np.random.default_rng(seed)
    total = int(np.prod([len(values) for values in space.values()]))
    drawn: dict[tuple[str, ...], None] = {(): None}
    while len(drawn) < 1 + min(count, total):
        drawn[tuple(f"{key}={values[int(rng.integers(len(values)))]}" for key, values in space.items())] = None
    return list(drawn)


def final_score(task: Task) -> float:
    """What a run ends at: 1 for the optimum, 0 for the table's median; -1 at least."""
    run = play(task)
    # The agent's settings change nothing in the table.
    overrides = tuple(override for override in task.overrides if override.startswith("reward."))
    zero, one = ends(replace(task, overrides=overrides), [])
    floor = zero - (one - zero)
    best = float(anytime(run.rewards, run.feasible, task.budget, floor)[-1])
    return (max(floor, best) - zero) / (one - zero)


def _space(config: DictConfig, agent: str) -> dict[str, list[Any]]:
    """Override -> values; what they refer to is known when the agent is made."""
    space = OmegaConf.to_container(config.spaces[agent], resolve=False)
    assert isinstance(space, dict)
    return {str(key): list(values) for key, values in space.items()}


def trials(config: DictConfig, agent: str) -> dict[tuple[str, ...], list[Task]]:
    """Setting -> what it is played on."""
    return {
        setting: [
            Task("tabular", agent, name.partition("=")[2], seed, config.budget, (*options, *setting))
            for name, *options in plain(config.rewards)
            for seed in config.seeds
        ]
        for setting in settings(_space(config, agent), config.trials, config.seed)
    }


def name_of(task: Task) -> str:
    """What a score is kept under: another default of the agent is another name."""
    return " ".join([task.agent, task.reward, str(task.seed), *task.overrides, digest(task)])


@hydra.main(version_base="1.3", config_path="../../conf", config_name="tune")
def main(config: DictConfig) -> None:
    """Play what is missing, then rank."""
    require_lists(agents=config.agents, rewards=config.rewards, seeds=config.seeds)
    unknown = [agent for agent in config.agents if agent not in config.spaces]
    if unknown:
        raise ValueError(f"nothing to try for {unknown[0]}: give '+spaces.{unknown[0]}={{agent.OPTION: [VALUES]}}'")
    directory = run_directory(config, "tune", besides=("workers", "agents"))
    path = directory / "scores.json"
    known: dict[str, float] = read_json(path) if path.exists() else {}
    played = {
        agent: {setting: {name_of(task): task for task in tasks} for setting, tasks in trials(config, agent).items()}
        for agent in tqdm(config.agents, desc="configs", unit="agent")
    }
    tasks = {name: task for of_agent in played.values() for named in of_agent.values() for name, task in named.items()}
    missing = [name for name in tasks if name not in known]
    workers = Workers(final_score, config.workers)
    found = workers([tasks[name] for name in missing])
    for name, score in zip(tqdm(missing, desc="runs", unit="run"), islice(found, len(missing)), strict=True):
        known[name] = score
        write_json(path, known)
    workers.close()
    rows = []
    for agent, of_agent in played.items():
        means = {setting: float(np.mean([known[name] for name in scored])) for setting, scored in of_agent.items()}
        best = max(means, key=lambda setting: means[setting])
        rows.append((agent, f"{means[()]:.3f}", f"{means[best]:.3f}", " ".join(best) or "the present ones"))
    text = format_table(("agent", "present score", "best score", "best settings"), rows)
    (directory / "best.txt").write_text(text + "\n")
    print(text)
    print(f"all scores: {path}")


if __name__ == "__main__":
    main()
