"""Searches without run folders, of which studies run hundreds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.wrappers import RecordEpisodeStatistics
from omegaconf import DictConfig

from experiments.common.agent import make_agent
from experiments.common.check import check_search_config
from experiments.common.command_errors import given_by
from experiments.common.compose import compose_config, option_of
from experiments.common.environment import make_environment, make_tabular_environment
from experiments.common.parts import activation_aware
from experiments.common.results import Cell, model_files
from experiments.common.sets import load_set
from shrinkml_env import CompressibleModel, Evaluator, Ledger, SearchProblem, TabularEnv, load_utterances
from shrinkml_env.compression import CompensatedSVD, PredictiveModel
from shrinkml_env.search import explore
from shrinkml_env.space.table import Table

__all__ = [
    "BY_OWN_OPTIONS",
    "Explored",
    "Search",
    "check_search",
    "check_undecided",
    "compensated",
    "compensates",
    "evaluator_on",
    "explored",
    "explored_in",
    "search_cell",
    "search_env",
    "tabular_env",
]


BY_OWN_OPTIONS = "the study's own options decide it"
"""Why a study refuses an override."""

DECIDED = {
    **dict.fromkeys(("budget", "seed", "finalists"), BY_OWN_OPTIONS),
    **dict.fromkeys(
        ("outputs", "logger", "uniform_curve", "workers"), "a study's searches have no folder of their own"
    ),
    "num_envs": "a study plays one environment at a time",
}
"""Options of a search that a study decides -> why an override of it is refused."""

EPISODES = 10**6
"""More episodes than any search plays."""


@dataclass(frozen=True, slots=True)
class Search:
    """One search of a study.

    Attributes:
        env: ``"tabular"`` or ``"live"``.
        agent: Name of the agent in conf/agent.
        reward: Name of the reward in conf/reward.
        seed: Seed of the agent.
        budget: Number of unique evaluations.
        overrides: Further overrides of `experiments.search`.
        table: The table of a tabular search, see `Table.load`.
    """

    env: str
    agent: str
    reward: str
    seed: int
    budget: int
    overrides: tuple[str, ...] = ()
    table: str = "las_small"

    @property
    def given(self) -> tuple[str, ...]:
        """The overrides, those of agent and reward included."""
        return (f"agent={self.agent}", f"reward={self.reward}", *self.overrides)

    @property
    def config(self) -> DictConfig:
        """The config of `experiments.search` for this search."""
        # Composing takes 0.1 s, and many searches differ only in their seeds.
        config = _composed(self.given).copy()
        config.seed, config.budget = self.seed, self.budget
        return config

    @property
    def about(self) -> dict[str, Any]:
        """The description of the search for readers of results."""
        return {"agent": self.agent, "reward": self.reward, "seed": self.seed, "overrides": list(self.overrides)}


@lru_cache(maxsize=1024)
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    return compose_config("search", overrides)


def search_cell(search: Search, task: Any = None, **more: Any) -> Cell[Any]:
    """Return the cell of a search.

    Args:
        search: The search.
        task: The task of the cell; by default the search.
        more: Further JSON-able content on which the result depends.
    """
    content: dict[str, Any] = {"search": search.config, **more, **model_files(search.config.model)}
    if search.env == "tabular":
        content["table"] = Table.load(search.table).content
    return Cell(search if task is None else task, content, {**search.about, **more})


def check_undecided(option: str, overrides: Sequence[str], decided: Mapping[str, str]) -> None:
    """Check that an option's overrides of another command give nothing that a study decides.

    Args:
        option: The study's option that gives the overrides.
        overrides: The overrides.
        decided: Option of the other command -> why an override of it is refused.

    Raises:
        ValueError: One is refused.
    """
    for override in overrides:
        if (name := option_of(override)) in decided:
            raise ValueError(f"{option}: {override}: {decided[name]}")


def check_search(search: Search, options: Mapping[str, Sequence[str]]) -> None:
    """Check the config of a search before it runs.

    Args:
        search: The search.
        options: Option of the study -> the overrides that it gives, ``agent=...`` and ``reward=...`` among them.

    Raises:
        ValueError: An override is unknown, an option is of a wrong kind, or a part of the config cannot be made. The
            message begins with the option of the study that is at fault.
    """
    for option, overrides in options.items():
        check_undecided(option, overrides, DECIDED)
    try:
        check_search_config(search.config)
    except Exception:
        with given_by(_at_fault(search, options), "search", search.given):
            raise


def _at_fault(search: Search, options: Mapping[str, Sequence[str]]) -> str:
    """Return the first option without whose overrides a search would be valid; the last one if there is none."""
    for option, overrides in options.items():
        rest = tuple(override for override in search.given if override not in overrides)
        with suppress(Exception):
            check_search_config(_composed(rest))
            return option
    return list(options)[-1]


class Explored(NamedTuple):
    """A search whose budget is spent.

    Attributes:
        problem: The search problem, whose `history` holds the evaluations.
        returns: The return of each episode.
    """

    problem: SearchProblem
    returns: list[float]


def explored(search: Search, cache: Any = "default") -> Explored:
    """Run a search until its budget is spent.

    Args:
        search: The search.
        cache: The argument `cache` of `shrinkml_env.envs.registration.make_env`, for live searches.

    Raises:
        ValueError: The agent ended without an evaluation.
    """
    return explored_in(search_env(search, cache), search.config.agent)


def explored_in(env: gym.Env[Any, Any], agent: DictConfig) -> Explored:
    """Let an agent, given by its config, play an environment until the budget of its ledger is spent."""
    recorded = RecordEpisodeStatistics(env, buffer_length=EPISODES)
    problem = explore(recorded, make_agent(agent, recorded))
    return Explored(problem, [round(float(value), 5) for value in recorded.return_queue])


def search_env(search: Search, cache: Any = "default") -> gym.Env[Any, Any]:
    """Make the environment of a search, with its budget; arguments as in `explored`."""
    config = search.config
    ledger = Ledger(budget=search.budget)
    if search.env == "tabular":
        return make_tabular_environment(config, ledger, search.table)
    env: gym.Env[Any, Any] = make_environment(config, ledger, cache)  # one: `check_search`
    return env


def tabular_env(search: Search) -> TabularEnv:
    """Return the tabular environment of a search."""
    env = make_tabular_environment(search.config, Ledger(), search.table).unwrapped
    assert isinstance(env, TabularEnv)
    return env


def evaluator_on(problem: SearchProblem, config: Mapping[Any, Any] | DictConfig, name: str) -> Evaluator:
    """Return an evaluator like the problem's on another set of the config, ``"dev"`` or ``"test"``."""
    return problem.evaluator.on(load_set(config, name))


def compensates(search: DictConfig, model: CompressibleModel) -> bool:
    """Return whether compensation is possible: it needs calibration speech and a model of probabilities."""
    return isinstance(model, PredictiveModel) and activation_aware(search.factorisation) is not None


def compensated(
    evaluator: Evaluator, config: Mapping[Any, Any] | DictConfig, ranks: Mapping[str, int]
) -> CompensatedSVD:
    """Return the factors of a configuration fitted on the calibration speech of a search's config.

    Args:
        evaluator: The evaluator of the search.
        config: The search's config, with an activation-aware factorisation, see `activation_aware`.
        ranks: Layer name -> rank.

    Raises:
        ValueError: The model does not predict probabilities, or the factorisation is not activation-aware.
    """
    factors = activation_aware(config["factorisation"])
    if factors is None:
        raise ValueError("compensation needs calibration speech: give an activation-aware factorisation")
    speech = [utterance.waveform for utterance in load_utterances(factors.calibration, "calibration")]
    return CompensatedSVD(evaluator.model, speech, evaluator.matrix_ranks(ranks), evaluator.factorisation)
