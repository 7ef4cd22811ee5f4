"""Check that memory does not grow in long runs: ``python -m tests.reliability.memory``."""

from __future__ import annotations

import ctypes
import gc
import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium as gym
import torch

from benchmarks.report import Section
from shrinkml_env import EvaluationCache, Evaluator, Ledger, Utterance
from tests.helpers.las import MODEL, TEXTS, noise

__all__ = ["episodes", "evaluations", "growth"]

LIMIT = 50e6
"""The largest growth of a process's memory, bytes."""


def evaluations(folder: Path) -> Iterator[None]:
    """Measure configurations through a ledger and a cache; yield after each one."""
    utterances = [
        Utterance(str(i), "s", wave, text)
        for i, (wave, text) in enumerate(zip(noise(4000, 5000), TEXTS[:2], strict=True))
    ]
    evaluator = Evaluator(MODEL, utterances, cache=EvaluationCache(folder / "cache.sqlite"), memory=2**20)
    ledger = Ledger(folder / "evaluations.jsonl")
    layers = evaluator.layers
    for ranks in itertools.product(*(range(1, layer.break_even + 1) for layer in layers)):
        ledger.evaluate(evaluator, dict(zip((layer.name for layer in layers), ranks, strict=True)))
        yield


def episodes(folder: Path) -> Iterator[None]:
    """Play episodes on the table; yield after each one. The folder is not used."""
    env = gym.make("ShrinkMLTabular-v0")
    env.action_space.seed(0)
    while True:
        env.reset(seed=0)
        terminated = False
        while not terminated:
            _, _, terminated, *_ = env.step(env.action_space.sample())
        yield


def growth(make: Callable[[Path], Iterator[None]], before: int, count: int) -> float:
    """Return the growth in bytes of a new process's memory.

    Args:
        make: A generator function of a folder, whose steps the process runs.
        before: Number of steps before the first measurement.
        count: Number of steps between the two measurements.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (make, before, count))


def _growth(make: Callable[[Path], Iterator[None]], before: int, count: int) -> float:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        steps = make(Path(folder))
        for _ in itertools.islice(steps, before):
            pass
        first = _resident()
        for _ in itertools.islice(steps, count):
            pass
        return _resident() - first


def _resident() -> float:
    """Return the resident memory of this process in bytes, after releasing freed memory."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096.0


def measure() -> Section:
    """Measure the growth by evaluations and by episodes."""
    rows = []
    for make, before, count in ((evaluations, 100, 1_000), (episodes, 1_000, 100_000)):
        found = growth(make, before, count)
        rows.append((make.__name__, f"{count:,}", f"{found / 1e6:.1f} MB"))
        assert found < LIMIT, rows[-1]
    method = "How much a process's resident memory grows, after a hundredth or more of the same."
    return Section("Memory", method, {"memory": (("what", "how many", "growth"), rows)})


if __name__ == "__main__":
    measure().print()
