"""Searches without a folder of their own: studies play them by the hundred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig

from experiments.common.agent import make_agent
from experiments.common.compose import compose_config
from experiments.common.environment import make_environment, make_tabular_environment
from experiments.common.imports import import_modules
from experiments.common.results import Cell
from experiments.common.run_directory import plain
from experiments.search import check
from shrinkml_env import Evaluator, Ledger, SearchProblem, TabularEnv, load_utterances
from shrinkml_env.search import explore
from shrinkml_env.space.table import Table

__all__ = [
    "Search",
    "check_searches",
    "evaluator_on",
    "explored",
    "search_cell",
    "tabular_env",
]


@dataclass(frozen=True, slots=True)
class Search:
    """One search of a study.

    Attributes:
        env: ``"tabular"`` or ``"live"``.
        agent: Name in conf/agent.
        reward: Name in conf/reward.
        seed: The agent's.
        budget: Unique evaluations.
        overrides: Further ones of `experiments.search`.
    """

    env: str
    agent: str
    reward: str
    seed: int
    budget: int
    overrides: tuple[str, ...] = ()

    @property
    def config(self) -> DictConfig:
        """The config that `experiments.search` would be given."""
        # Composing takes a tenth of a second, and many searches differ in nothing but their seeds.
        config = _composed(self.agent, self.reward, self.overrides).copy()
        config.seed, config.budget = self.seed, self.budget
        return config

    @property
    def about(self) -> dict[str, Any]:
        """What it is, for people."""
        return {"agent": self.agent, "reward": self.reward, "seed": self.seed, "overrides": list(self.overrides)}


@lru_cache(maxsize=1024)
def _composed(agent: str, reward: str, overrides: tuple[str, ...]) -> DictConfig:
    return compose_config("search", [f"agent={agent}", f"reward={reward}", *overrides])


def search_cell(search: Search, task: Any = None, **more: Any) -> Cell[Any]:
    """Return the cell of a search.

    Args:
        search: The search.
        task: What is given to whoever makes it; by default the search.
        more: What its result depends on besides, as JSON.
    """
    content: dict[str, Any] = {"search": search.config, **more}
    if search.env == "tabular":
        content["table"] = Table.load().content
    return Cell(search if task is None else task, content, {**search.about, **more})


def check_searches(searches: Sequence[Search]) -> None:
    """Find out what is wrong with searches before any is made; those that differ in their seeds are looked at once.

    Raises:
        ValueError: As `experiments.search.check`.
    """
    for search in dict.fromkeys(replace(search, seed=0) for search in searches):
        check(search.config)


def explored(search: Search, cache: Any = "default") -> SearchProblem:
    """Let the agent use its budget up; what it has measured is in the problem's history.

    Args:
        search: The search.
        cache: As in `shrinkml_env.envs.registration.make_env`, for live searches.

    Raises:
        ValueError: The agent ended without having measured anything.
    """
    config = search.config
    import_modules(config.imports)  # In a process of its own nothing has.
    ledger = Ledger(budget=search.budget)
    if search.env == "tabular":
        env = make_tabular_environment(config, ledger)
    else:
        env = make_environment(config, ledger, cache)
    return explore(env, make_agent(config.agent, env))


def tabular_env(search: Search) -> TabularEnv:
    """Return the tabular environment of a search."""
    env = make_tabular_environment(search.config, Ledger()).unwrapped
    assert isinstance(env, TabularEnv)
    return env


def evaluator_on(problem: SearchProblem, config: Mapping[Any, Any] | DictConfig, name: str) -> Evaluator:
    """Return what measures on another of the config's sets, ``"dev"`` or ``"test"``, as the problem does on proxy."""
    return problem.evaluator.on(load_utterances(plain(config[name])))
