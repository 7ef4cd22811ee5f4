"""Make a seed model by a rule, without a search: ``python -m experiments.seed_model agent=profile size=0.2``.

A rule is an agent that can say which ranks it gives a model of a wanted size: ``uniform``, ``energy`` and ``profile``
measure nothing for it, ``knapsack`` measures single layers on the proxy set. The run directory holds the model, and a
``best.json`` for `experiments.validate`. For ranks found by a search at that size:
``python -m experiments.search agent=model_based reward=divergence constraint=check constraint.budget=0.2``.
"""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.parts import check_part, part
from experiments.common.run_directory import plain, run_directory
from shrinkml_env import (
    EvaluationCache,
    Evaluator,
    SearchProblem,
    default_cache_path,
    load_model,
    load_utterances,
)
from shrinkml_env.envs import make_factorisation
from shrinkml_env.mdp.rewards import Accuracy
from shrinkml_env.search import report
from shrinkml_env.search_directory import write
from shrinkml_env.space.formation import Full

SETS = ("proxy", "dev", "test")


def every_rank(evaluator: Evaluator) -> SearchProblem:
    """Return the problem that rules choose from: the lowest WER on an evaluator's utterances, among all ranks."""
    space = Full(max(layer.break_even for layer in evaluator.layers))
    return SearchProblem(evaluator, space(evaluator.layers), Accuracy())


def check_rule(agent: DictConfig) -> None:
    """Find out whether the config of an agent is that of a rule, before anything is made.

    Raises:
        ValueError: It is not, or cannot be made.
    """
    check_part("agent", agent)
    if not hasattr(pkgutil.resolve_name(agent._target_), "ranks_of_size"):
        raise ValueError(
            f"{agent._target_} is a search, not a rule like uniform, energy, profile and knapsack: give it a size "
            "by python -m experiments.search reward=divergence constraint=check constraint.budget=SIZE"
        )


def ranks_of_size(problem: SearchProblem, agent: DictConfig, size: float) -> dict[str, int]:
    """Return the ranks by which a rule makes a model of at most a size ratio.

    Args:
        problem: Holds the ranks to choose from, and measures for a rule that does.
        agent: Config of the rule.
        size: The size ratio, in (0, 1].

    Raises:
        ValueError: The agent is no rule, or cannot make the model so small.
    """
    check_rule(agent)
    ranks: dict[str, int] = instantiate(agent, _convert_="all").ranks_of_size(problem, size)
    return ranks


def make(config: DictConfig, title: str) -> Path:
    """Make a seed model, measure it, write and print the result; returns the run's directory.

    Raises:
        ValueError: The size is out of reach, or the agent is no rule.
        FileNotFoundError: The model or a set is missing.
    """
    check_rule(config.agent)
    sets = evaluators(config)
    problem = every_rank(sets.pop("proxy"))
    ranks = ranks_of_size(problem, config.agent, config.size)
    directory = run_directory(config, title)
    # Nobody has searched for the reward of the problem.
    result = replace(report(problem, ranks, sets, describe(config, title)), rewards={})
    write(result, directory)
    print(f"\n{result!r}")
    print(f"fine-tune it: python -m experiments.finetune seed_model={directory}")
    return directory


def evaluators(config: DictConfig) -> dict[str, Evaluator]:
    """Return what measures on each of the config's sets, with the same factors."""
    model = load_model(config.model)
    factorisation = make_factorisation(model, part("factorisation", config.factorisation))
    cache = EvaluationCache(default_cache_path())
    first = Evaluator(model, load_utterances(plain(config.proxy)), cache=cache, factorisation=factorisation)
    return {"proxy": first, **{name: first.on(load_utterances(plain(config[name]))) for name in ("dev", "test")}}


def describe(config: DictConfig, title: str) -> dict[str, Any]:
    """Return what ``best.json`` says about the making of a model: for people, and for measuring it anew."""
    return {
        "settings": {"rule": title},
        "model": config.model,
        "factorisation": plain(config.factorisation),
        "granularity": "layer",
        "utterances": {name: plain(config[name]) for name in SETS},
    }


@command("seed_model")
def main(config: DictConfig) -> None:
    """Make one model; Hydra's multirun makes many."""
    make(config, f"{HydraConfig.get().runtime.choices['agent']}-{config.size:g}")


if __name__ == "__main__":
    main()
