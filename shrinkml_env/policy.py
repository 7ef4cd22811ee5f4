"""The configuration that a trained agent's policy decides."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium as gym
import numpy as np

from shrinkml_env.agent import is_algorithm
from shrinkml_env.envs.shrink import MaskableShrinkEnv
from shrinkml_env.envs.wrapped import shrink_env

__all__ = ["policy_ranks"]


def policy_ranks(env: Any, agent: Any) -> dict[str, int] | None:
    """Play one episode by an agent's policy, without exploration, up to the last action, and return what it completes.

    The configuration is not evaluated. Explored configurations carry the noise of the exploration, and the best of many
    on few utterances is partly best by luck; the policy averages over all of them.

    Args:
        env: The environment that the agent was made with, as `shrinkml_env.search.run_search` takes it. Its episode is
            begun anew; of a vector environment the first is played.
        agent: An agent; its ``predict`` is called with ``deterministic=True`` and, if it takes them, with a recurrent
            policy's state and with the action masks.

    Returns:
        Layer name -> rank; None if the agent has no method ``predict``.
    """
    if not callable(getattr(agent, "predict", None)):
        return None
    base = shrink_env(env)
    # A vector environment has no episode of its own; wrappers of a single one belong to what the agent observes.
    player = env if isinstance(env, gym.Env) and env.unwrapped is base else base
    normaliser = agent.get_vec_normalize_env() if is_algorithm(agent) else None
    takes = inspect.signature(agent.predict).parameters
    state, begins = None, True
    observation, _ = player.reset()
    while True:
        options: dict[str, Any] = {"deterministic": True}
        if {"state", "episode_start"} <= takes.keys():
            options |= {"state": state, "episode_start": np.array([begins])}
        if "action_masks" in takes and isinstance(base, MaskableShrinkEnv):
            options["action_masks"] = base.action_masks()
        seen = observation if normaliser is None else normaliser.normalize_obs(observation)
        action, state = agent.predict(seen, **options)
        completed = base.completed_by(action)
        if completed is not None:
            return completed
        observation, begins = player.step(action)[0], False
