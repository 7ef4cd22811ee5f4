"""Access to the `ShrinkEnv` and its search problem inside wrapped, vector and tabular environments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import gymnasium as gym
from gymnasium.vector import VectorEnv

from shrinkml_env.envs.registration import VARIANTS_V1, arguments_v1, make_env, valid_arguments
from shrinkml_env.envs.shrink import ShrinkEnv
from shrinkml_env.envs.tabular import TabularEnv
from shrinkml_env.mdp.problem import SearchProblem

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv  # optional

__all__ = ["AnyEnv", "arguments_of", "budget_of", "episode_length", "num_envs_of", "search_problem", "shrink_env"]

AnyEnv: TypeAlias = "gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | VecEnv"
"""An environment, wrapped or not: a single one, Gymnasium's vector environment or Stable-Baselines3's."""


def shrink_env(env: AnyEnv) -> ShrinkEnv:
    """Return the `ShrinkEnv` of an environment, which may be wrapped, tabular or a vector environment (its first).

    Raises:
        TypeError: It is not a ShrinkML environment.
    """
    first = _first(env)
    found = first.twin if isinstance(first, TabularEnv) else first
    if not isinstance(found, ShrinkEnv):
        raise TypeError(
            'env must be a ShrinkML environment, such as gym.make("ShrinkML-v0") or, for several, '
            f"shrinkml_env.sb3.ShrinkVecEnv(gym.make_vec(...)), got {type(first).__name__}"
        )
    return found


def search_problem(env: AnyEnv) -> SearchProblem:
    """Return the search problem of any environment that `shrink_env` takes.

    Raises:
        TypeError: It is not a ShrinkML environment.
    """
    return shrink_env(env).problem


def episode_length(env: AnyEnv) -> int:
    """Return the number of steps of an episode of any environment that `shrink_env` takes."""
    return shrink_env(env).action.steps


def num_envs_of(env: AnyEnv) -> int:
    """Return the number of environments in a vector environment; 1 for a single one."""
    return getattr(env, "num_envs", 1)


def arguments_of(env: AnyEnv) -> Mapping[str, Any]:
    """Return the arguments of `make_env` that make the same environment, defaults included.

    For a tabular environment they are those of the same problem without the table; for an environment that was not made
    by `gym.make` the mapping is empty.
    """
    first = _first(env)
    spec = getattr(getattr(env, "unwrapped", env), "spec", None) or getattr(first, "spec", None)
    if isinstance(first, TabularEnv):
        given = dict(first.live_kwargs)
    elif spec is None:
        return {}
    else:
        # `gym.make_vec` notes its own arguments besides.
        own = {*inspect.signature(gym.make_vec).parameters}
        given = {name: value for name, value in spec.kwargs.items() if name not in own}
        if spec.id in VARIANTS_V1:
            given = arguments_v1(**given)
    parameters = inspect.signature(make_env).parameters
    return {**{name: parameters[name].default for name in valid_arguments(make_env)}, **given}


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


def _first(env: AnyEnv) -> Any:
    """Return an environment without its wrappers, or the first of a vector environment of ours, or of a single one."""
    inner: Any = getattr(env, "unwrapped", env)
    envs: Sequence[AnyEnv] = getattr(inner, "envs", ())
    if hasattr(inner, "first"):
        return inner.first
    # Stable-Baselines3 puts what its agents play into such a vector environment.
    return _first(envs[0]) if len(envs) == 1 else inner
