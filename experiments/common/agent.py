"""Construction of agents from configs, in which numbers of steps may be given in episodes: ``n_steps: ${episodes:5}``.

Stable-Baselines3 counts steps. The number of steps in an episode depends on the model and the kind of actions, so that
a config cannot contain it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from shrinkml_env.agent import Learner
from shrinkml_env.envs.wrapped import AnyEnv, episode_length

__all__ = ["make_agent", "steps_are_known"]

_STEPS: ContextVar[int | None] = ContextVar("steps of an episode", default=None)


def _episodes(number: int) -> int | str:
    """Resolve ``${episodes:N}``: a number of steps inside `steps_are_known`, otherwise a text."""
    steps = _STEPS.get()
    return f"{number} episodes" if steps is None else number * steps


OmegaConf.register_new_resolver("episodes", _episodes, replace=True)


@contextmanager
def steps_are_known(steps: int = 1) -> Iterator[None]:
    """Resolve numbers of episodes in configs to numbers of steps, given the steps of an episode."""
    token = _STEPS.set(steps)
    try:
        yield
    finally:
        _STEPS.reset(token)


def make_agent(part: DictConfig, env: AnyEnv) -> Learner:
    """Make the agent of a config.

    Args:
        part: The agent's config: a class (``_target_``) and its arguments except the environment.
        env: The environment that the agent plays.

    Raises:
        ValueError: The agent is one of Stable-Baselines3's that does not support the action space.
    """
    with steps_are_known(episode_length(env)):
        try:
            # Agents need real dicts and lists, for instance in `policy_kwargs.net_arch`.
            agent: Learner = instantiate(part, env=env, _convert_="all")
        except InstantiationException as error:
            needed = _needed_actions(error.__cause__)
            if needed:
                raise ValueError(f"agent: {part._target_} needs action={' or action='.join(needed)}") from error
            raise
    return agent


def _needed_actions(error: BaseException | None) -> list[str]:
    """Return the kinds of actions that Stable-Baselines3's error about an action space names as supported."""
    text = str(error) if isinstance(error, AssertionError) else ""
    return [kind for space, kind in ACTIONS.items() if "only supports" in text and f".{space}'>" in text]


ACTIONS = {"Box": "continuous", "Discrete": "discrete", "MultiDiscrete": "one_shot"}
"""Action space -> a kind of actions with this space."""
