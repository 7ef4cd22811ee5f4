"""Rules, which give ranks for a size: their check, the problem that they solve, and their ranks."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence

from hydra.utils import instantiate
from omegaconf import DictConfig

from agents.rules import RankRule
from experiments.common.parts import check_part
from shrinkml_env import SearchProblem
from shrinkml_env.compression import Layer
from shrinkml_env.evaluation import SupportsEvaluate
from shrinkml_env.mdp.rewards import Accuracy
from shrinkml_env.space.formation import Full

__all__ = ["check_rule", "every_rank", "is_rule", "ranks_of_rules", "ranks_of_size"]


def every_rank(evaluator: SupportsEvaluate, layers: Sequence[Layer] | None = None) -> SearchProblem:
    """Return the problem for rules: all ranks are candidates, and the reward is that of the WER alone.

    Args:
        evaluator: The evaluator of the model.
        layers: The layers to decide, while the others stay dense; by default all.
    """
    layers = evaluator.layers if layers is None else layers
    space = Full(max(layer.break_even for layer in layers))
    return SearchProblem(evaluator, space(layers), Accuracy())


def is_rule(agent: DictConfig) -> bool:
    """Return whether the class that an agent's config names is a rule: whether it gives ranks for a size."""
    kind = pkgutil.resolve_name(agent._target_)
    return isinstance(kind, type) and issubclass(kind, RankRule)


def check_rule(agent: DictConfig) -> None:
    """Check that the config of an agent is that of a rule.

    Raises:
        ValueError: The agent is not a rule, or its config is not valid.
    """
    check_part("agent", agent)
    if not is_rule(agent):
        raise ValueError(
            f"{agent._target_} is a search, not a rule like uniform, profile and closed_form: give it a size "
            "by python -m experiments.search reward=divergence constraint=check constraint.budget=SIZE"
        )


def ranks_of_size(problem: SearchProblem, agent: DictConfig, size: float) -> dict[str, int]:
    """Return a rule's ranks for a model of at most a size ratio.

    Args:
        problem: The problem: candidates, and measurements for rules that need them.
        agent: The config of the rule.
        size: The largest size ratio, in (0, 1].

    Raises:
        ValueError: The agent is not a rule, or the smallest model is larger.
    """
    check_rule(agent)
    ranks: dict[str, int] = instantiate(agent, _convert_="all").ranks_of_size(problem, size)
    return ranks


def ranks_of_rules(problem: SearchProblem, agent: DictConfig) -> list[dict[str, int]]:
    """Return the ranks of the rules that an agent begins with, at the size that is allowed; none without either.

    As finalists of a search they make sure that nothing is chosen that is worse on dev than a rule. A rule is asked for
    any ranks: among the candidates of the search, which the agent begins with, it may have to take far worse ones. The
    layers that the search does not decide stay dense.

    Args:
        problem: The problem of the search.
        agent: The config of its agent, with ``rules`` if it begins with some.
    """
    limit = problem.size_limit
    rules = instantiate(agent.get("rules") or [], _convert_="all")
    if limit is None or not rules:
        return []
    free = every_rank(problem.evaluator, problem.layers)
    return [rule.ranks_of_size(free, limit) for rule in rules]
