"""Measure the speed of the tabular environment: ``python -m benchmarks.tabular``."""

from __future__ import annotations

import statistics
import time
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.report import Section

ROUNDS = 5
EPISODES = 3000
NUM_ENVS = 4096


def steps_a_second(env: gym.Env[Any, Any], episodes: list[list[Any]]) -> float:
    """Return the steps a second of whole episodes with given actions, resets included."""
    started = time.perf_counter()
    for actions in episodes:
        env.reset()
        for action in actions:
            env.step(action)
    return sum(map(len, episodes)) / (time.perf_counter() - started)


def vector_steps_a_second(env: gym.vector.VectorEnv[Any, Any, Any], batches: list[Any]) -> float:
    """Return the steps a second of many episodes at once with given actions."""
    env.reset()
    started = time.perf_counter()
    for actions in batches:
        env.step(actions)
    return env.num_envs * len(batches) / (time.perf_counter() - started)


def measure() -> Section:
    """Measure the environment with gym.make's wrappers, without them, and with many episodes at once."""
    rows = []
    for action in ("discrete", "continuous"):
        env = gym.make("ShrinkMLTabular-v0", action=action)
        inner: Any = env.unwrapped
        env.action_space.seed(0)
        layers = len(inner.layers)
        drawn = [[env.action_space.sample() for _ in range(layers)] for _ in range(EPISODES)]
        if action == "discrete":
            drawn = [[int(choice) for choice in actions] for actions in drawn]
        steps_a_second(env, drawn)  # computes every state of these episodes once
        vector = gym.make_vec("ShrinkMLTabular-v0", num_envs=NUM_ENVS, action=action)
        vector.action_space.seed(0)
        batches = [np.asarray(vector.action_space.sample()) for _ in range(20 * layers)]
        vector_steps_a_second(vector, batches)
        for name, run in (
            ("gym.make", lambda env=env, drawn=drawn: steps_a_second(env, drawn)),
            ("env.unwrapped", lambda inner=inner, drawn=drawn: steps_a_second(inner, drawn)),
            (f"gym.make_vec, {NUM_ENVS} episodes", lambda v=vector, b=batches: vector_steps_a_second(v, b)),
        ):
            rows.append((name, action, f"{statistics.median(run() for _ in range(ROUNDS)):,.0f}"))  # type: ignore[no-untyped-call]
    return Section(
        "The tabular environment",
        f"Random actions on states that have been visited before, resets included, one core; medians of {ROUNDS}.",
        {"speed": (("made by", "actions", "steps a second"), rows)},
    )


if __name__ == "__main__":
    measure().print()
