"""The decision process inside an environment, however it is wrapped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shrinkml_env.envs.shrink import ShrinkEnv
from shrinkml_env.envs.tabular import TabularEnv
from shrinkml_env.mdp.problem import SearchProblem

__all__ = ["arguments_of", "budget_of", "episode_length", "num_envs_of", "search_problem", "shrink_env"]


def shrink_env(env: Any) -> ShrinkEnv:
    """Return the decision process of an environment: wrapped or not, tabular or not, single or several in one.

    Raises:
        TypeError: It is no ShrinkML environment.
    """
    first = _first(env)
    found = first.twin if isinstance(first, TabularEnv) else first
    if not isinstance(found, ShrinkEnv):
        raise TypeError(
            'env must be a ShrinkML environment, such as gym.make("ShrinkML-v0") or, for several, '
            f"shrinkml_env.sb3.ShrinkVecEnv(gym.make_vec(...)), got {type(getattr(env, 'unwrapped', env)).__name__}"
        )
    return found


def search_problem(env: Any) -> SearchProblem:
    """Return the search problem of an environment, given as in `shrink_env`.

    Raises:
        TypeError: It is no ShrinkML environment.
    """
    return shrink_env(env).problem


def episode_length(env: Any) -> int:
    """Return the number of steps of every episode of an environment, given as in `shrink_env`."""
    return len(shrink_env(env).actions_for({}))


def num_envs_of(env: Any) -> int:
    """Return how many environments there are in one."""
    return getattr(env, "num_envs", 1)


def arguments_of(env: Any) -> Mapping[str, Any]:
    """Return the arguments that ``gym.make("ShrinkML-v0", ...)`` was given, or would be for the same measurements.

    Empty where the environment was put together by hand.
    """
    first = _first(env)
    if isinstance(first, TabularEnv):
        return first.live_kwargs
    spec = getattr(getattr(env, "unwrapped", env), "spec", None)
    return {} if spec is None else spec.kwargs


def budget_of(problem: SearchProblem) -> int:
    """Return the number of unique evaluations that a search may use.

    Raises:
        ValueError: Its ledger has no budget, or one of 0.
    """
    if not problem.ledger.budget:
        raise ValueError(
            'a search needs a budget of evaluations, at least 1: gym.make("ShrinkML-v0", ledger={"budget": 200}), got '
            f"{problem.ledger.budget}"
        )
    return problem.ledger.budget


def _first(env: Any) -> Any:
    """Return the environment without its wrappers; of several in one, the first."""
    inner = getattr(env, "unwrapped", env)
    return getattr(inner, "first", inner)
