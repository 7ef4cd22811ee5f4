"""The methods that a study of sizes compares: rules, and searches that keep to a size, as its config gives them."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from experiments.common.rules import is_rule
from experiments.common.searches import BY_OWN_OPTIONS, Search, check_search, check_undecided

__all__ = ["Method", "methods_of", "search_of"]

DECIDED_HERE = dict.fromkeys(("model", "proxy", "dev", "constraint.budget", "device"), BY_OWN_OPTIONS)
"""Options of a search that such a study decides besides those that every study does -> why."""


@dataclass(frozen=True, slots=True)
class Method:
    """A rule or a search, as in the study's config.

    Attributes:
        name: Its name in tables.
        agent: Name of the agent in conf/agent.
        overrides: Overrides of `experiments.search`.
        seed: The agent's.
        reward: Name of the reward in conf/reward.
        budget: Unique evaluations; None for a rule.
    """

    name: str
    agent: str
    overrides: tuple[str, ...]
    seed: int
    reward: str
    budget: int | None


def methods_of(config: DictConfig) -> list[Method]:
    """Return the study's methods, each with each of its seeds.

    Raises:
        ValueError: A method's settings are wrong, or an option names a method that there is not.
    """
    methods = [
        Method(
            name=str(name),
            agent=options.agent,
            overrides=tuple(options.overrides),
            seed=seed,
            reward=options.get("reward", "divergence"),
            budget=options.get("budget"),
        )
        for name, options in config.methods.items()
        for seed in range(options.get("seeds", 1))
    ]
    for method in methods:
        own = [f"agent={method.agent}", f"reward={method.reward}", *method.overrides]
        options = {"base": config.base, f"methods.{method.name}": own}
        for option, overrides in options.items():
            check_undecided(option, overrides, DECIDED_HERE)
        search = search_of(config, method, 1.0)
        check_search(search, options)
        if method.budget is None and "reward" in config.methods[method.name]:
            raise ValueError(f"methods.{method.name}: without a budget nothing is rewarded: give no reward")
        if method.budget is None and not is_rule(search.config.agent):
            raise ValueError(f"methods.{method.name}: agent {method.agent} is a search, not a rule: give it a budget")
        if method.budget is None and "seeds" in config.methods[method.name]:
            raise ValueError(f"methods.{method.name}: a rule gives the same ranks with every seed: give no seeds")
    for option in ("complete", "rivals"):
        for name in config[option]:
            if name not in config.methods:
                raise ValueError(f"{option}: {name!r} is not among the methods: {', '.join(config.methods)}")
    return methods


def search_of(config: DictConfig, method: Method, ratio: float) -> Search:
    """Return the search of a method at a size, without the study's model and speech; see `search_config`."""
    overrides = [*config.base, *method.overrides]
    if method.budget is not None:
        overrides.append(f"constraint.budget={ratio}")
    return Search("live", method.agent, method.reward, method.seed, method.budget or 1, tuple(overrides))
