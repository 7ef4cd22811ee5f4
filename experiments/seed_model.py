"""Make a seed model by a rule, without a search: ``python -m experiments.seed_model agent=profile size=0.2``.

A rule is an agent that returns the ranks of a model of a given size: ``closed_form``, ``uniform``, ``energy``,
``profile``, ``lite_asr``, and ``knapsack``, which measures single layers on the proxy set. The run directory contains
the model, and a ``best.json`` for `experiments.validate`. To find ranks by a search at this size instead:
``python -m experiments.search agent=model_based reward=divergence constraint=check constraint.budget=0.2``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.compose import to_container
from experiments.common.parts import part
from experiments.common.rules import check_rule, every_rank, ranks_of_size
from experiments.common.run_directory import run_directory
from experiments.common.sets import load_set
from shrinkml_env import (
    EvaluationCache,
    Evaluator,
    load_model,
)
from shrinkml_env.compression.factorisations import make_factorisation
from shrinkml_env.search import report
from shrinkml_env.search_directory import origin, write

SETS = ("proxy", "dev", "test")


def make(config: DictConfig, title: str) -> Path:
    """Make a seed model, measure it, write and print the result; return the run's directory.

    Raises:
        ValueError: The agent is not a rule, or the smallest model is larger than the size.
        FileNotFoundError: The model or a set is missing.
    """
    check_rule(config.agent)
    sets = evaluators(config)
    problem = every_rank(sets.pop("proxy"))
    ranks = ranks_of_size(problem, config.agent, config.size)
    directory = run_directory(config, title)
    # The reward of the problem is not an objective of the rule.
    result = replace(report(problem, ranks, sets, record_entries(config, title)), rewards={})
    write(result, directory)
    print(f"\n{result!r}")
    print(f"fine-tune it: python -m experiments.finetune seed_model={directory}")
    return directory


def evaluators(config: DictConfig) -> dict[str, Evaluator]:
    """Return an evaluator for each of the config's sets, with the same factors: name of the set -> evaluator."""
    model = load_model(config.model)
    cache = EvaluationCache()
    factorisation = make_factorisation(model, part("factorisation", config.factorisation), cache)
    first = Evaluator(model, load_set(config, "proxy"), cache=cache, factorisation=factorisation)
    return {"proxy": first, **{name: first.on(load_set(config, name)) for name in ("dev", "test")}}


def record_entries(config: DictConfig, title: str) -> dict[str, Any]:
    """Return the `origin` of a seed model."""
    sets = {name: to_container(config[name]) for name in SETS}
    return origin({"rule": title}, config.model, sets, to_container(config.factorisation), "layer")


@command("seed_model")
def main(config: DictConfig) -> None:
    """Make one seed model; Hydra's multirun makes many."""
    make(config, f"{HydraConfig.get().runtime.choices['agent']}-{config.size:g}")


if __name__ == "__main__":
    main()
