"""Agents from configs, whose numbers of steps may be written as numbers of episodes: ``n_steps: ${episodes:5}``.

Stable-Baselines3 counts steps. How many make an episode depends on the model and the kind of actions, which a config
does not know.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from shrinkml_env.envs.wrapped import episode_length

__all__ = ["make_agent"]

_STEPS: ContextVar[int | None] = ContextVar("steps of an episode", default=None)


def _episodes(number: int) -> int | str:
    """Steps while an agent is made, and words before its environment is known."""
    steps = _STEPS.get()
    return f"{number} episodes" if steps is None else number * steps


OmegaConf.register_new_resolver("episodes", _episodes, replace=True)


def make_agent(part: DictConfig, env: Any) -> Any:
    """Make the agent of a config.

    Args:
        part: A class (``_target_``) and what it takes besides the environment.
        env: What the agent plays.
    """
    token = _STEPS.set(episode_length(env))
    try:
        # Agents look for real dicts and lists, in `policy_kwargs.net_arch` for one.
        return instantiate(part, env=env, _convert_="all")
    finally:
        _STEPS.reset(token)
