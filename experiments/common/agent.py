"""Agents from configs, whose numbers of steps may be written as numbers of episodes: ``n_steps: ${episodes:5}``.

Stable-Baselines3 counts steps. How many make an episode depends on the model and the kind of actions, which a config
does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from shrinkml_env.envs.wrapped import episode_length

__all__ = ["make_agent", "steps_are_known"]

_STEPS: ContextVar[int | None] = ContextVar("steps of an episode", default=None)


def _episodes(number: int) -> int | str:
    """Steps while an agent is made, and words before its environment is known."""
    steps = _STEPS.get()
    return f"{number} episodes" if steps is None else number * steps


OmegaConf.register_new_resolver("episodes", _episodes, replace=True)


@contextmanager
def steps_are_known(steps: int = 1) -> Iterator[None]:
    """Let episodes have so many steps: a number of episodes in a config is a number of steps."""
    token = _STEPS.set(steps)
    try:
        yield
    finally:
        _STEPS.reset(token)


def make_agent(part: DictConfig, env: Any) -> Any:
    """Make the agent of a config.

    Args:
        part: A class (``_target_``) and what it takes besides the environment.
        env: What the agent plays.

    Raises:
        ValueError: It is one of Stable-Baselines3's for other action spaces.
    """
    with steps_are_known(episode_length(env)):
        try:
            # Agents look for real dicts and lists, in `policy_kwargs.net_arch` for one.
            return instantiate(part, env=env, _convert_="all")
        except InstantiationException as error:
            needed = _needed_actions(error.__cause__)
            if needed:
                raise ValueError(f"agent: {part._target_} needs action={' or action='.join(needed)}") from error
            raise


def _needed_actions(error: BaseException | None) -> list[str]:
    """Return the kinds of actions whose spaces Stable-Baselines3 names when it refuses another one."""
    told = str(error) if isinstance(error, AssertionError) else ""
    return [kind for space, kind in ACTIONS.items() if "only supports" in told and f".{space}'>" in told]


ACTIONS = {"Box": "continuous", "Discrete": "discrete", "MultiDiscrete": "one_shot"}
"""Action space -> the kind of actions that has it."""
