"""Arguments of functions and environments."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import agents
from shrinkml_env import Evaluator, Ledger, compress, load_model, load_utterances, run_search, save_compressed
from shrinkml_env.compression import change_form, decompress, quantise
from shrinkml_env.data.utterance import as_waveform, as_waveforms
from shrinkml_env.export import export_model
from shrinkml_env.space.formation import Explicit
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

MUST_BE = {
    "continuous": r"layer 'frontend': the action must be an array of one float in \[-1, 1\], got",
    "discrete": r"layer 'frontend': the action must be an integer in 0\.\.24, got",
}

REWARDS: list[tuple[dict[str, Any], str]] = [
    ({"name": "linear", "size_weight": -0.1}, "'linear': size_weight must be at least 0, got"),
    ({"name": "linear", "size_weight": math.inf}, "'linear': size_weight must be at least 0, got"),
    ({"name": "threshold", "tolerance": -0.1}, "'threshold': tolerance must be at least 0, got"),
    ({"name": "threshold", "punishment": "much"}, "'threshold': punishment must be at least 0, got"),
    ({"name": "soft_threshold", "kappa": math.nan}, "'soft_threshold': kappa must be at least 0, got"),
    ({"name": "divergence", "size_weight": None}, "'divergence': size_weight must be at least 0, got"),
    ({"name": "amc", "cost": "watts"}, "'amc': cost must be 'params' or 'macs', got"),
    ({"name": "multiplicative", "target": 0}, "'multiplicative': target must be above 0 and at most 1, got"),
    ({"name": "absolute", "target": 2}, "'absolute': target must be above 0 and at most 1, got"),
    ({"name": "harmonic", "beta": 0}, "'harmonic': beta must be above 0, got"),
]


@functools.cache
def tiny() -> TinyCTC:
    return TinyCTC()


def make(arguments: dict[str, Any], _: Path) -> object:
    return gym.make("ShrinkML-v0", **{"model": tiny(), "proxy": test_checks.PROXY, "cache": None, **arguments})


def make_several(value: Any, _: Path) -> object:
    return gym.make_vec("ShrinkML-v0", num_envs=value, model=tiny(), proxy=test_checks.PROXY, cache=None)


def tabular(arguments: dict[str, Any], _: Path) -> object:
    return gym.make("ShrinkMLTabular-v0", **arguments)


def made(arguments: dict[str, Any], message: str) -> Case:
    name = "ShrinkML-v0"
    return Case("gym.make", f'gym.make("{name}", {options(arguments)})', message, functools.partial(make, arguments))


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


NO_MODEL = "model must be a CompressibleModel, such as load_model returns, got a"


def compress_nothing(model: Any) -> None:
    compress(model, {})


def two_factors(model: Any) -> None:
    change_form(model, "factors")


def no_model(function: Callable[[Any], Any], given: Any, _: Path) -> None:
    function(given)


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


RANKS: list[tuple[Any, str]] = [
    *((ranks, "ranks must be a mapping of layers' names to whole numbers, got") for ranks in (None, 3, [1], "x")),
    ({"nothing": 3}, "no layer is named 'nothing'; the layers are front, gru, hidden, output"),
    ({3: 3}, "no layer is named 3; the layers are front, gru, hidden, output"),
    *(
        ({"hidden": rank}, rf"layer 'hidden': rank must be an integer in 1\.\.24, got {rank!r}")
        for rank in (0, 25, 1.5, "3", None, True, math.inf, math.nan)
    ),
]

EXPLICIT = r"candidates must be like {'encoder\.2': \[16, 32\]}, got "

SPACES: list[tuple[Any, str]] = [
    ({"nothing": [1, 2]}, "search space: no layer is named 'nothing'; the layers are front, gru, hidden, output"),
    ({"hidden": []}, "the search space is empty"),
    ({"hidden": [0, 3]}, "layer 'hidden': a candidate must be a whole number of at least 1, got 0"),
    ({"hidden": [99]}, r"layer 'hidden': rank must be an integer in 1\.\.24, got 99"),
    ({"hidden": ["many"]}, "layer 'hidden': a candidate must be a whole number of at least 1, got 'many'"),
    ({"hidden": 3}, rf"{EXPLICIT}{{'hidden': 3}}"),
    ([1, 2], rf"{EXPLICIT}\[1, 2\]"),
]

SETS: list[tuple[Any, str]] = [
    ("prox", "no utterance set is named 'prox'"),
    (3, "an utterance set must be a name"),
    (None, "an utterance set must be a name"),
    ([1, 2], "an utterance set must be a name"),
    ([], "at least one utterance"),
    ({"root": "nowhere"}, r"needs the keys root and subset .*, got \['root'\]"),
    ({"root": "nowhere", "subset": "dev", "folder": 1}, "needs the keys root and subset"),
    ({"root": "nowhere", "subset": "dev-other"}, "no subset 'dev-other' in nowhere"),
    ({"root": 3, "subset": "dev"}, "root of an utterance set must be a path, got 3"),
    (
        {"root": "nowhere", "subset": "dev", "ids": 3},
        "ids of an utterance set must be a file's path or a list of ids, got 3",
    ),
    ({"root": "nowhere", "subset": 3}, "subset of an utterance set must be a name or a list of names, got 3"),
]

SEARCHES: list[tuple[dict[str, Any], str]] = [
    ({"finalists": 0}, "finalists must be a whole number of at least 1, got 0"),
    ({"finalists": 1.5}, "finalists must be a whole number of at least 1, got"),
    ({"finalists": True}, "finalists must be a whole number of at least 1, got"),
    ({"dev": "nowhere"}, "dev: no utterance set is named 'nowhere'"),
    ({"test": 3}, "test: an utterance set must be a name"),
    ({"agent": agents.RandomSearch}, "agent must .* the class RandomSearch: make an agent of it"),
    ({"directory": ""}, "directory must be the name of a folder, got ''"),
    ({"config": {"a": {1, 2}}}, "config must be a mapping of what JSON can hold: Object of type set"),
    ({"agent": None}, r"agent must have a method learn\(total_timesteps\)"),
]

AGENTS = [
    (
        "agents.ModelBasedSearch(env, warm_up=1)",
        lambda env: agents.ModelBasedSearch(env, warm_up=1),
        "warm_up must be a whole number of at least 2, got 1",
    ),
    (
        "agents.ModelBasedSearch(env, elites=0)",
        lambda env: agents.ModelBasedSearch(env, elites=0),
        "elites must be a whole number of at least 1, got 0",
    ),
    (
        "agents.GreedySearch(env, evaluations=0)",
        lambda env: agents.GreedySearch(env, evaluations=0),
        "evaluations must be a whole number of at least 1, got 0",
    ),
    (
        "agents.KnapsackSearch(env, points=0)",
        lambda env: agents.KnapsackSearch(env, points=0),
        "points must be a whole number of at least 1, got 0",
    ),
    (
        "agents.KnapsackSearch(env, sizes=(0.5, 1.1))",
        lambda env: agents.KnapsackSearch(env, sizes=(0.5, 1.1)),
        "sizes must be a range",
    ),
    (
        'agents.OptunaSearch(env, objectives=("speed",))',
        lambda env: agents.OptunaSearch(env, objectives=("speed",)),
        "objectives must be some of reward, wer, size_ratio",
    ),
]

OTHERS = [
    ("load_model(3)", "a model must be given by its name or the path of its folder, got 3", lambda _: load_model(3)),
    ("Evaluator(model, [])", "an evaluator needs at least one utterance", lambda _: Evaluator(tiny(), [])),
    ("Ledger(path=3)", "ledger: path must be the name of a file, got 3", lambda _: Ledger(3)),
    (
        "Ledger(budget=1.5)",
        "ledger: budget must be a whole number of at least 0, got 1.5",
        lambda _: Ledger(budget=1.5),
    ),
    (
        "save_compressed(model, FILE)",
        "is a file: a model is saved to a folder",
        lambda folder: ((folder / "file").touch(), save_compressed(tiny(), folder / "file")),
    ),
    (
        'export_model(model, FOLDER, "onnxx", utterances)',
        "there is no format 'onnxx'; the formats are safetensors, torch, onnx, huggingface",
        lambda folder: export_model(tiny(), folder / "out", "onnxx", test_checks.PROXY),
    ),
]

TABULAR: list[tuple[dict[str, Any], str]] = [
    ({"subset": "x"}, "the table holds no set 'x'; it has proxy, dev, test"),
    ({"model": "las_small"}, "ShrinkMLTabular-v0 has no argument 'model'; its arguments are action, observation"),
    ({"reward": "divergence"}, "needs the divergence from the original, .* a table that holds divergences"),
    ({"table": 5}, "table must be the name or the file of a table, or a Table, got 5"),
]

EVALUATORS: list[tuple[dict[str, Any], str]] = [
    ({"granularity": "layers"}, "granularity must be 'layer', 'matrix' or a mapping of blocks, got 'layers'"),
    ({"granularity": {"x": ["nothing"]}}, "block 'x': no layer is named 'nothing'; the layers are"),
    ({"granularity": {"x": ["hidden", "hidden"]}}, "block 'x': layer 'hidden' is in another block already"),
    ({"workers": 0}, "workers must be a whole number of at least 1, got 0"),
    ({"memory": -1}, "memory must be a whole number of at least 0, got -1"),
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
    *(
        Case(
            "gym.make",
            f'gym.make("ShrinkMLTabular-v0", {options(arguments)})',
            message,
            functools.partial(tabular, arguments),
        )
        for arguments, message in TABULAR
    ),
    *(made({"reward": reward}, message) for reward, message in REWARDS),
    *(
        Case(
            "actions",
            f"step({shown(action)}), {kind}",
            MUST_BE[kind],
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
        Case("models", f"{function.__name__}({shown(given)})", NO_MODEL, functools.partial(no_model, function, given))
        for function in (compress_nothing, decompress, two_factors, quantise)
        for given in (3, None)
    ),
    *(
        Case("ranks", f"compress(model, {shown(given)})", message, functools.partial(ranks, given))
        for given, message in RANKS
    ),
    *(
        Case("search spaces", f"candidates={shown(given)}", message, functools.partial(space, given))
        for given, message in SPACES
    ),
    *(
        Case("utterance sets", f"load_utterances({shown(given)})", message, functools.partial(spec, given))
        for given, message in SETS
    ),
    *(
        Case("searches", f"run_search(env, agent, {options(given)})", message, functools.partial(search, given))
        for given, message in SEARCHES
    ),
    *(
        Case(
            "evaluators",
            f"Evaluator(model, utterances, {options(given)})",
            message,
            functools.partial(evaluator, given),
        )
        for given, message in EVALUATORS
    ),
    *(Case("functions", given, message, act) for given, message, act in OTHERS),
    *(Case("agents", given, message, functools.partial(agent, make_agent)) for given, make_agent, message in AGENTS),
]
