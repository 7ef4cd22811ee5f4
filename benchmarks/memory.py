"""Memory that long runs take more than short ones: ``python -m benchmarks.memory``."""

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
"""Bytes that the memory of a process may grow by."""


def evaluations(folder: Path) -> Iterator[None]:
    """Measure one configuration after the other, through a ledger and a cache."""
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
    """Play one episode after the other on the table; nothing is kept in the folder."""
    env = gym.make("ShrinkMLTabular-v0")
    env.action_space.seed(0)
    while True:
        env.reset(seed=0)
        terminated = False
        while not terminated:
            _, _, terminated, *_ = env.step(env.action_space.sample())
        yield


def growth(make: Callable[[Path], Iterator[None]], before: int, count: int) -> float:
    """Return by how many bytes a process of its own grows.

    Args:
        make: What it does.
        before: How often it does it before the first look.
        count: And how often until the second.
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
    """Return the bytes of this process that are in memory, without what has been freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096.0


def measure() -> Section:
    """Look at both."""
    rows = []
    for make, before, count in ((evaluations, 100, 1_000), (episodes, 1_000, 100_000)):
        found = growth(make, before, count)
        rows.append((make.__name__, f"{count:,}", f"{found / 1e6:.1f} MB"))
        assert found < LIMIT, rows[-1]
    method = "How much a process's resident memory grows, after a hundredth or more of the same."
    return Section("Memory", method, {"memory": (("what", "how many", "growth"), rows)})


if __name__ == "__main__":
    measure().print()
