"""Arguments of functions and environments."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import agents
from shrinkml_env import Evaluator, Ledger, compress, load_utterances, run_search
from shrinkml_env.data.utterance import as_waveform, as_waveforms
from shrinkml_env.space.search_space import Explicit
from tests import test_checks
from tests.data import test_utterance
from tests.envs import test_registration
from tests.helpers.fake_evaluator import make_fake_env
from tests.helpers.models import TinyCTC
from tests.reliability.bad_input.case import Case, options, parametrised, shown

__all__ = ["CASES"]

ACTIONS: dict[str, list[Any]] = {
    "continuous": [
        np.array([np.nan], np.float32),
        np.array([1.1], np.float32),
        np.array([-2.0], np.float32),
        np.zeros(2, np.float32),
        np.array([], np.float32),
        np.array([0]),
        np.array(["0"]),
        0.5,
        None,
        {},
    ],
    "discrete": [-1, 99, 1.0, np.nan, True, np.array([1]), "1", None, []],
}

REWARDS: list[tuple[dict[str, Any], str]] = [
    ({"name": "linear", "size_weight": -0.1}, "'linear': size_weight"),
    ({"name": "linear", "size_weight": math.inf}, "'linear': size_weight"),
    ({"name": "threshold", "tolerance": -0.1}, "'threshold': tolerance"),
    ({"name": "threshold", "punishment": "much"}, "'threshold': punishment"),
    ({"name": "soft_threshold", "kappa": math.nan}, "'soft_threshold': kappa"),
    ({"name": "divergence", "size_weight": None}, "'divergence': size_weight"),
    ({"name": "amc", "cost": "watts"}, "'amc': cost"),
    ({"name": "multiplicative", "target": 0}, "'multiplicative': target"),
    ({"name": "absolute", "target": 2}, "'absolute': target"),
    ({"name": "harmonic", "beta": 0}, "'harmonic': beta"),
]


@functools.cache
def tiny() -> TinyCTC:
    return TinyCTC()


def make(arguments: dict[str, Any], _: Path) -> object:
    return gym.make("ShrinkML-v0", **{"model": tiny(), "proxy": test_checks.PROXY, "cache": None, **arguments})


def make_several(value: Any, _: Path) -> object:
    return gym.make_vec("ShrinkML-v0", num_envs=value, model=tiny(), proxy=test_checks.PROXY, cache=None)


def made(arguments: dict[str, Any], told: str) -> Case:
    name = "ShrinkML-v0"
    return Case("gym.make", f'gym.make("{name}", {options(arguments)})', told, functools.partial(make, arguments))


def step(kind: str, action: Any, _: Path) -> None:
    env = make_fake_env(kind)
    env.reset(seed=0)
    try:
        env.step(action)
    finally:
        assert env.step(env.action_space.sample())[-1]["layer"] == "frontend"  # The episode is as it was.


def sample(samples: Any, _: Path) -> None:
    as_waveform(samples, "x")


def transcribe(waveforms: Any, _: Path) -> None:
    as_waveforms(waveforms)


def search(arguments: dict[str, Any], folder: Path) -> None:
    env = make_fake_env(ledger=Ledger(budget=2))
    try:
        run_search(env, **{"agent": agents.RandomSearch(env), "directory": folder / "run", **arguments})
    finally:
        assert not (folder / "run").exists()


def ranks(given: Any, _: Path) -> None:
    compress(tiny(), given)


def space(candidates: Any, _: Path) -> None:
    Explicit(candidates)(tiny().layers)


def spec(given: Any, _: Path) -> None:
    load_utterances(given)


def evaluator(arguments: dict[str, Any], _: Path) -> None:
    Evaluator(tiny(), test_checks.PROXY, **arguments)


def agent(make_agent: Any, _: Path) -> None:
    make_agent(make_fake_env())


RANKS = [
    ({"nothing": 3}, "'nothing'"),
    ({"hidden": 0}, r"'hidden'.* 1\.\.24"),
    ({"hidden": 25}, r"'hidden'.* 1\.\.24"),
    ({"hidden": 1.5}, "'hidden'"),
    ({"hidden": "3"}, "'hidden'"),
    ({"hidden": None}, "'hidden'"),
    ({"hidden": True}, "'hidden'"),
    ({3: 3}, "3"),
]

SPACES = [
    ({"nothing": [1, 2]}, "'nothing'"),
    ({"hidden": []}, "the search space is empty"),
    ({"hidden": [0, 3]}, "'hidden'"),
    ({"hidden": [99]}, "'hidden'"),
    ({"hidden": ["many"]}, "'hidden'"),
    ({"hidden": 3}, "'hidden'"),
    ([1, 2], "candidates"),
]

SETS: list[tuple[Any, str]] = [
    ("prox", "no utterance set is named 'prox'"),
    (3, "an utterance set must be a name"),
    (None, "an utterance set must be a name"),
    ([1, 2], "an utterance set must be a name"),
    ([], "at least one utterance"),
    ({"root": "nowhere"}, "needs the keys root and subset"),
    ({"root": "nowhere", "subset": "dev", "folder": 1}, "needs the keys root and subset"),
    ({"root": "nowhere", "subset": "dev-other"}, "no subset 'dev-other' in nowhere"),
    ({"root": 3, "subset": "dev"}, "root"),
    ({"root": "nowhere", "subset": 3}, "subset"),
]

SEARCHES: list[tuple[dict[str, Any], str]] = [
    ({"finalists": 0}, "finalists must be a whole number of at least 1, got 0"),
    ({"finalists": 1.5}, "finalists must be a whole number"),
    ({"finalists": True}, "finalists must be a whole number"),
    ({"dev": "nowhere"}, "no utterance set is named 'nowhere'"),
    ({"test": 3}, "an utterance set must be a name"),
    ({"agent": agents.RandomSearch}, "agent must .* the class RandomSearch: make an agent of it"),
    ({"agent": None}, r"agent must have a method learn\(total_timesteps\)"),
]

AGENTS = [
    ("agents.ModelBasedSearch(env, warm_up=1)", lambda env: agents.ModelBasedSearch(env, warm_up=1), "at least"),
    ("agents.ModelBasedSearch(env, elites=0)", lambda env: agents.ModelBasedSearch(env, elites=0), "at least"),
    ("agents.GreedySearch(env, evaluations=0)", lambda env: agents.GreedySearch(env, evaluations=0), "at least"),
    ("agents.KnapsackSearch(env, points=0)", lambda env: agents.KnapsackSearch(env, points=0), "at least|candidate"),
    ("agents.KnapsackSearch(env, sizes=(0.5, 1.1))", lambda env: agents.KnapsackSearch(env, sizes=(0.5, 1.1)), "sizes"),
    (
        'agents.OptunaSearch(env, objectives=("speed",))',
        lambda env: agents.OptunaSearch(env, objectives=("speed",)),
        "objectives",
    ),
]

EVALUATORS: list[tuple[dict[str, Any], str]] = [
    ({"granularity": "layers"}, "granularity must be"),
    ({"granularity": {"x": ["nothing"]}}, "'nothing'"),
    ({"granularity": {"x": ["hidden", "hidden"]}}, "'hidden'"),
    ({"workers": 0}, "workers must be"),
    ({"memory": -1}, "memory"),
]

CASES = [
    *(made(arguments, message) for arguments, message in parametrised(test_registration.test_mistakes_are_named)),
    *(made(arguments, message) for message, rows in test_checks.WRONG.items() for arguments in rows),
    *(
        Case(
            "gym.make",
            f'gym.make_vec("ShrinkML-v0", num_envs={value!r})',
            "num_envs must be a whole number of at least 1",
            functools.partial(make_several, value),
        )
        for (value,) in parametrised(test_checks.test_a_wrong_number_of_environments)
    ),
    *(made({"reward": reward}, message) for reward, message in REWARDS),
    *(
        Case(
            "actions",
            f"step({shown(action)}), {kind}",
            "layer 'frontend': the action must be an",
            functools.partial(step, kind, action),
        )
        for kind, rows in ACTIONS.items()
        for action in rows
    ),
    *(
        Case("waveforms", shown(samples), message, functools.partial(sample, samples))
        for samples, message in parametrised(test_utterance.test_the_rest_is_refused)
    ),
    *(
        Case("waveforms", f"transcribe({shown(waveforms)})", message, functools.partial(transcribe, waveforms))
        for waveforms, message in parametrised(test_utterance.test_one_waveform_is_no_list)
    ),
    *(
        Case("ranks", f"compress(model, {shown(given)})", told, functools.partial(ranks, given))
        for given, told in RANKS
    ),
    *(
        Case("search spaces", f"candidates={shown(given)}", told, functools.partial(space, given))
        for given, told in SPACES
    ),
    *(
        Case("utterance sets", f"load_utterances({shown(given)})", told, functools.partial(spec, given))
        for given, told in SETS
    ),
    *(
        Case("searches", f"run_search(env, agent, {options(given)})", told, functools.partial(search, given))
        for given, told in SEARCHES
    ),
    *(
        Case("evaluators", f"Evaluator(model, utterances, {options(given)})", told, functools.partial(evaluator, given))
        for given, told in EVALUATORS
    ),
    *(Case("agents", given, told, functools.partial(agent, make_agent)) for given, make_agent, told in AGENTS),
]
