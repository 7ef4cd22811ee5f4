"""Search ranks for a model: ``python -m experiments.search agent=ppo reward=linear seed=0 budget=200``.

The search sees the proxy set alone. Its best configurations are measured on dev, the best of them there is compressed,
saved, and reported on test. Started again, the same command resumes: what was measured is read from its run directory.
"""

from __future__ import annotations

import importlib
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.logger import configure
from tqdm import tqdm

from experiments.common.agent import make_agent
from experiments.common.checks import require_whole
from experiments.common.command import command
from experiments.common.environment import LIVE, make_environment
from experiments.common.fetch import fetch
from experiments.common.parts import check_part, label, part
from experiments.common.run_directory import plain, run_directory
from experiments.common.search_report import print_result, write_report
from shrinkml_env import (
    Evaluation,
    EvaluationCache,
    Ledger,
    SearchProblem,
    SearchResult,
    default_cache_path,
    run_search,
)
from shrinkml_env.agent import is_algorithm
from shrinkml_env.envs.assembly import make_reward
from shrinkml_env.envs.wrapped import search_problem
from shrinkml_env.files import errors_name
from shrinkml_env.sb3 import EvaluationLog
from shrinkml_env.space.search_space import uniform_ranks

CURVE_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Fractions of the break-even rank on the uniform-rank curve of the report's picture."""


def search(config: DictConfig, title: str) -> Path:
    """Run one search and write its report; returns the run's directory.

    Raises:
        ValueError: Something in the config is wrong.
    """
    check(config)
    directory = run_directory(config, title)
    with errors_name(directory):
        result, problem = find(config, directory, title)
        conclude(result, problem, directory)
    return directory


def check(config: DictConfig) -> None:
    """Find out what is wrong with a config before anything is made.

    Raises:
        ValueError: A number is out of range, or a part of the config cannot be made.
    """
    require_whole(config, "budget", "finalists", "num_envs", "workers", "memory_mb")
    require_whole(config, "seed", least=0)
    for module in config.imports:
        importlib.import_module(module)
    for group in (*LIVE, "agent"):
        check_part(group, config[group])
    if getattr(make_reward(part("reward", config.reward)), "space", None) is not None:
        raise ValueError(
            f"a search has one best configuration, so it needs a scalar reward: not {label(config.reward)}"
        )


def find(config: DictConfig, directory: Path, title: str) -> tuple[SearchResult, SearchProblem]:
    """Make the environment and the agent that a config describes, and search with them in a directory.

    Raises:
        ValueError: A part of the config does not fit the model or the data.
    """
    # One core a process: two busy threads on two busy cores are far slower than one.
    torch.set_num_threads(1)
    fetch(config, "proxy", "dev", "test")
    ledger = Ledger(directory / "evaluations.jsonl", config.budget)
    env = make_environment(config, ledger, EvaluationCache(default_cache_path()))
    with closing(env):
        problem = search_problem(env)
        print(f"search space: {len(problem.layers)} layers, {problem.search_space.size:.1e} configurations")
        agent = make_agent(config.agent, env)
        logger = configure(str(directory / "tensorboard"), ["tensorboard"])
        if is_algorithm(agent):
            agent.set_logger(logger)  # in which its evaluations are recorded as well
        else:
            ledger.subscribe(EvaluationLog(logger, problem))
        sets = {name: plain(config[name]) for name in ("dev", "test")}
        told = describe(config, title, problem)
        return run_search(env, agent, **sets, finalists=config.finalists, directory=directory, config=told), problem


def describe(config: DictConfig, title: str, problem: SearchProblem) -> dict[str, Any]:
    """Return what ``best.json`` says about the making of a result: for people, and for measuring it anew."""
    return {
        "title": title,
        "settings": {
            **{group: label(config[group]) for group in ("agent", *LIVE) if group != "search_space"},
            "search space": f"{label(config.search_space)}, {problem.search_space.size:.1e} configurations",
            "budget": f"{config.budget} unique evaluations",
            "seed": str(config.seed),
        },
        "model": config.model,
        "factorisation": plain(config.factorisation),
        "granularity": plain(config.granularity),
        "utterances": {name: plain(config[name]) for name in ("proxy", "dev", "test")},
    }


def conclude(result: SearchResult, problem: SearchProblem, directory: Path) -> None:
    """Write the report, and print the outcome."""
    write_report(directory, result, uniform_curve(problem))
    print_result(result, directory)


def uniform_curve(problem: SearchProblem) -> list[Evaluation]:
    """Measure uniform ranks on the proxy set, for the picture; they count as no evaluations of the search."""
    fractions = tqdm(CURVE_FRACTIONS, desc="uniform-rank curve", unit="evaluation")
    return [problem.evaluator.evaluate(uniform_ranks(problem.layers, fraction)) for fraction in fractions]


@command("search")
def main(config: DictConfig) -> None:
    """One search; Hydra's multirun makes many."""
    choices = HydraConfig.get().runtime.choices
    agent = choices["agent"]
    if agent == "custom" and not OmegaConf.is_missing(config.agent, "_target_"):
        agent = config.agent._target_.rpartition(".")[2]
    search(config, f"{agent}-{choices['reward']}-{config.seed}")


if __name__ == "__main__":
    main()
