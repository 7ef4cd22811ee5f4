"""Compare the speed of a PPO search with the reference B: ``python -m benchmarks.search``."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import PPO

from benchmarks.reference import Careful
from benchmarks.report import Section, spread
from benchmarks.timing import compare
from shrinkml_env import SearchProblem, load_model, load_utterances
from shrinkml_env.asr import LAS
from shrinkml_env.compression import SVD
from shrinkml_env.sb3 import ShrinkVecEnv

ROUNDS = 5
EPISODES = 504
ENVS = 8
SAMPLE = 50


def search(workers: int, seed: int) -> SearchProblem:
    """Run a short search without a persistent cache, and return its problem."""
    envs: Any = gym.make_vec("ShrinkML-v0", num_envs=ENVS, cache=None, workers=workers)
    problem: SearchProblem = envs.envs[0].problem
    steps = len(problem.layers)
    agent = PPO("MlpPolicy", ShrinkVecEnv(envs), n_steps=steps, batch_size=ENVS * steps // 2, gamma=1.0, seed=seed)
    agent.learn(EPISODES * steps)
    return problem


def measure() -> Section:
    """Measure episodes a second with one worker and with two, and of B on the same configurations."""
    torch.set_num_threads(1)
    model = load_model("las_small")
    assert isinstance(model, LAS)
    careful = Careful(model, load_utterances("proxy"), SVD(model))
    found = [trial.ranks for trial in search(1, 0).history]

    def reference(number: int) -> None:
        # Configurations at equal distances, so that every round has early and late ones.
        for ranks in found[number :: len(found) // SAMPLE][:SAMPLE]:
            careful.wer(ranks)

    names = ("B, careful", "ShrinkML, one worker", "ShrinkML, two workers")
    ways = (reference, partial(search, 1), partial(search, 2))
    counts = dict(zip(names, (SAMPLE, EPISODES, EPISODES), strict=True))
    comparison = compare(dict(zip(names, ways, strict=True)), ROUNDS, "PPO searches").per(counts)
    rows = [
        (
            name,
            f"{1 / comparison.median(name):.2f}",
            "" if name.startswith("B") else spread(comparison.times_faster(name, than="B, careful")),
        )
        for name in comparison.seconds
    ]
    two = spread(comparison.times_faster("ShrinkML, two workers", than="ShrinkML, one worker"))
    return Section(
        "A search",
        f"PPO on {ENVS} environments in lockstep, {EPISODES} episodes, nothing cached at the start, {ROUNDS} seeds in "
        f"turns. B measures {SAMPLE} configurations of such a search and does nothing else; an episode is one of them. "
        "The start of the workers counts.",
        {"episodes": (("way", "episodes a second", "faster than B by"), rows)},
        [f"Two workers against one: {two}."],
    )


if __name__ == "__main__":
    measure().print()
