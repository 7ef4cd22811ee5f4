"""Time everything except evaluation (steps, import, gym.make): ``python -m benchmarks.overhead``."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import gymnasium as gym

from benchmarks.report import Section
from shrinkml_env.mdp.actions import ACTIONS

ROUNDS = 5

TIMED = [name for name in ACTIONS if name not in ("one_shot", "level")]
"""Actions whose steps are timed: not those that play an episode in one step, or need a search space with levels."""


def seconds_of(code: str) -> float:
    """Return the wall-clock time of a new Python process that runs the code."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def microseconds_a_step(action: str, steps: int = 2000) -> float:
    """Return the mean time of steps without an evaluation: all but the last of an episode."""
    env = gym.make("ShrinkML-v0", action=action)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(steps)]
    last = len(env.unwrapped.layers) - 1  # type: ignore[attr-defined]
    spent, taken = 0.0, 0
    for index, chosen in enumerate(actions):
        if index % last == 0:
            env.reset()
        started = time.perf_counter()
        env.step(chosen)
        spent += time.perf_counter() - started
        taken += 1
    return 1e6 * spent / taken


def measure() -> Section:
    """Measure steps, import and gym.make."""
    make = "import gymnasium as gym, shrinkml_env, time; s = time.perf_counter(); gym.make('ShrinkML-v0'); "
    seconds_of(make)  # warms the caches
    timed: dict[str, Callable[[], float]] = {
        "python": lambda: seconds_of(""),
        "import shrinkml_env": lambda: seconds_of("import shrinkml_env"),
        "gym.make, with the import": lambda: seconds_of(make),
    }
    medians = {name: statistics.median(run() for _ in range(ROUNDS)) for name, run in timed.items()}
    rows = [
        ("import shrinkml_env", f"{medians['import shrinkml_env'] - medians['python']:.2f} s"),
        ('gym.make("ShrinkML-v0")', f"{medians['gym.make, with the import'] - medians['import shrinkml_env']:.2f} s"),
    ]
    for action in TIMED:
        step = statistics.median(microseconds_a_step(action) for _ in range(ROUNDS))
        rows.append((f"a step, {action} actions", f"{step:.0f} microseconds"))
    return Section(
        "Besides evaluation",
        f"Medians of {ROUNDS}. Import and gym.make: new processes, warm caches. Steps: through gym.make's wrappers, "
        "those that measure nothing.",
        {"overhead": (("what", "time"), rows)},
    )


if __name__ == "__main__":
    measure().print()
