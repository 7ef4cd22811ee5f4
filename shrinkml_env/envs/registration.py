"""Building the environment from names, and making it known to Gymnasium."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import gymnasium as gym
import torch

from shrinkml_env.asr import load_model
from shrinkml_env.compression import CompressibleModel, Factorisation
from shrinkml_env.compression.factorisations import FACTORISATIONS
from shrinkml_env.data import load_utterances
from shrinkml_env.envs.shrink import ShrinkEnv
from shrinkml_env.evaluation import EvaluationCache, Evaluator, Ledger, default_cache_path
from shrinkml_env.evaluation.evaluator import Granularity
from shrinkml_env.evaluation.ledger import SupportsEvaluate
from shrinkml_env.mdp.actions import ACTIONS, ActionKind
from shrinkml_env.mdp.constraints import CONSTRAINTS, Constraint
from shrinkml_env.mdp.observations import OBSERVATIONS, Observation
from shrinkml_env.mdp.problem import SearchProblem
from shrinkml_env.mdp.rewards import REWARDS, signal_of
from shrinkml_env.mdp.shaping import POTENTIALS, Potential
from shrinkml_env.space.search_space import SEARCH_SPACES, SearchSpace

__all__ = ["VARIANTS", "assemble_env", "make_env", "make_factorisation", "make_problem", "register_envs", "resolve"]

T = TypeVar("T")

VARIANTS: dict[str, dict[str, Any]] = {
    "ShrinkML-v0": {},
    "ShrinkMLDiscrete-v0": {"action": "discrete"},
    "ShrinkMLOneShot-v0": {"action": "one_shot"},
    "ShrinkMLMultiObjective-v0": {"reward": "vector"},
}
"""Registered id -> the arguments of `make_env` in which it differs from ``ShrinkML-v0``."""


def register_envs() -> None:
    """Register the environments; called by ``import shrinkml_env``."""
    for name, options in VARIANTS.items():
        # Gymnasium's checker takes a vector reward for a mistake; MO-Gymnasium switches it off as well.
        gym.register(
            name,
            entry_point="shrinkml_env.envs.registration:make_env",
            vector_entry_point="shrinkml_env.envs.vector:make_vector_env",
            kwargs=dict(options),
            disable_env_checker=options.get("reward") == "vector",
        )
    gym.register(
        "ShrinkMLTabular-v0",
        entry_point="shrinkml_env.envs.tabular:make_tabular_env",
        vector_entry_point="shrinkml_env.envs.tabular:make_vector_tabular_env",
        disable_env_checker=True,  # for speed
    )


def resolve(kind: str, registry: Mapping[str, Callable[..., T]], spec: Any, expected: Any) -> T:
    """Build what a specification names.

    Args:
        kind: What is built, for error messages: ``"reward"``.
        registry: Name -> class or factory.
        spec: A name; a mapping with ``"name"`` and the options of what it names; or a finished object, returned as it
            is.
        expected: The type of a finished object.

    Raises:
        ValueError: The name is unknown, the options are not those of what it names, or the object is something else.
    """
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, Mapping):
        if isinstance(spec, type) or not isinstance(spec, expected):
            what = f"the class {spec.__name__}: call it" if isinstance(spec, type) else f"{spec!r}"
            raise ValueError(
                f"{kind}: must be a name, a mapping with 'name' and options, or a finished {expected.__name__}, got "
                f"{what}"
            )
        finished: T = spec
        return finished
    options = {str(option): value for option, value in spec.items()}
    name = options.pop("name", None)
    if name not in registry:
        known = ", ".join(sorted(registry))
        if name is None:
            raise ValueError(f"{kind}: {dict(spec)!r} lacks 'name'; known names: {known}")
        raise ValueError(f"{kind}: no {kind} is named {name!r}; known names: {known}")
    valid = inspect.signature(registry[name]).parameters
    unknown = sorted(set(options) - set(valid))
    missing = [key for key, parameter in valid.items() if parameter.default is parameter.empty and key not in options]
    if unknown or missing:
        mistake = f"has no option {unknown[0]!r}" if unknown else f"needs the option {missing[0]!r}"
        raise ValueError(f"{kind} {name!r} {mistake}; its options are {', '.join(valid) or 'none'}")
    return registry[name](**options)


def make_factorisation(model: CompressibleModel, spec: Any = "svd") -> Factorisation:
    """The factorisation of a model, given as in `make_env`."""
    if isinstance(spec, Factorisation):
        return spec
    return resolve("factorisation", FACTORISATIONS, spec, Callable)(model)


def make_problem(
    evaluator: SupportsEvaluate,
    reward: Any = "linear",
    constraint: Any = "none",
    search_space: Any = "full",
    ledger: Any = None,
) -> SearchProblem:
    """A search problem on a finished evaluator, the other parts given as in `make_env`."""
    if isinstance(ledger, Mapping):
        ledger = resolve("ledger", {"jsonl": Ledger}, {"name": "jsonl", **ledger}, Ledger)
    if not isinstance(search_space, SearchSpace):
        search_space = resolve("search_space", SEARCH_SPACES, search_space, Callable)(evaluator.layers)
    return SearchProblem(
        evaluator,
        search_space,
        resolve("reward", REWARDS, reward, Callable),
        resolve("constraint", CONSTRAINTS, constraint, Constraint),
        ledger,
    )


def make_env(
    model: Any = "las_small",
    proxy: Any = "proxy",
    action: Any = "continuous",
    observation: Any = "features",
    reward: Any = "linear",
    constraint: Any = "none",
    shaping: Any = "none",
    factorisation: Any = "svd",
    granularity: Granularity = "layer",
    device: str = "cpu",
    search_space: Any = "full",
    cache: Any = "default",
    ledger: Any = None,
    workers: int = 1,
    memory_mb: int = 256,
    render_mode: str | None = None,
    **unknown: Any,
) -> ShrinkEnv:
    """The entry point of ``gym.make("ShrinkML-v0", ...)``: everything by name, or as a finished object.

    Args:
        model: A name or path for `shrinkml_env.load_model`, or a `CompressibleModel`.
        proxy: What `shrinkml_env.data.load_utterances` takes: a name, a mapping, or a sequence of utterances.
        action: A name in `shrinkml_env.mdp.actions.ACTIONS`, a mapping with ``"name"`` and options, or an `ActionKind`.
        observation: The same of `shrinkml_env.mdp.observations.OBSERVATIONS`, or an `Observation`.
        reward: The same of `shrinkml_env.mdp.rewards.REWARDS`, or a callable of (evaluation, baseline).
        constraint: The same of `shrinkml_env.mdp.constraints.CONSTRAINTS`, or a `Constraint`.
        shaping: The same of `shrinkml_env.mdp.shaping.POTENTIALS`, or a `Potential`.
        factorisation: The same of `shrinkml_env.compression.factorisations.FACTORISATIONS`, a callable of the model,
            or a `Factorisation` that was made for it.
        granularity: ``"layer"``, ``"matrix"``, or blocks of layers (see `Evaluator`).
        device: Where the recogniser runs.
        search_space: The same of `shrinkml_env.space.search_space.SEARCH_SPACES`, a callable of the model's layers, or
            a `SearchSpace`.
        cache: Where measurements persist: ``"default"`` (see `default_cache_path`), a path, an `EvaluationCache`, or
            None for nowhere.
        ledger: A mapping of `Ledger`'s arguments ``path`` and ``budget``, a `Ledger`, or None.
        workers: Processes that measure the configurations of a vector environment side by side.
        memory_mb: Room for features and activations that configurations share, in each process.
        render_mode: None, ``"ansi"`` or ``"rgb_array"``.
        unknown: Anything else is a mistake.

    Raises:
        ValueError: A name, an argument or an option is unknown, or parts do not go together.
    """
    if unknown:
        valid = ", ".join(name for name in inspect.signature(make_env).parameters if name != "unknown")
        raise ValueError(f"ShrinkML-v0 has no argument {next(iter(unknown))!r}; its arguments are {valid}")
    model, cache = _load(model, device), _open(cache)
    utterances = load_utterances(proxy)
    reward = resolve("reward", REWARDS, reward, Callable)
    return assemble_env(
        Evaluator(
            model,
            utterances,
            granularity,
            cache,
            make_factorisation(model, factorisation),
            memory=memory_mb * 2**20,
            workers=workers,
            divergence=signal_of(reward) == "divergence",
        ),
        action=action,
        observation=observation,
        reward=reward,
        constraint=constraint,
        shaping=shaping,
        search_space=search_space,
        ledger=ledger,
        render_mode=render_mode,
    )


def assemble_env(
    evaluator: SupportsEvaluate,
    action: Any = "continuous",
    observation: Any = "features",
    shaping: Any = "none",
    render_mode: str | None = None,
    **problem: Any,
) -> ShrinkEnv:
    """An environment on a finished evaluator, the other parts given as in `make_env`; `problem` is `make_problem`'s."""
    return ShrinkEnv(
        make_problem(evaluator, **problem),
        resolve("action", ACTIONS, action, ActionKind),
        resolve("observation", OBSERVATIONS, observation, Observation),
        resolve("shaping", POTENTIALS, shaping, Potential),
        render_mode,
    )


def _load(model: Any, device: str) -> Any:
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: this torch finds no GPU; leave out `device`")
    if isinstance(model, str | os.PathLike):
        model = load_model(Path(model) if isinstance(model, os.PathLike) else model)
    elif not isinstance(model, CompressibleModel):
        raise ValueError(
            f"model: must be a name, a path, or a CompressibleModel, got a {type(model).__name__}: see "
            "docs/your-own-model.md"
        )
    if next(model.parameters()).device.type != torch.device(device).type:
        model = copy.deepcopy(model).to(device)
    return model


def _open(cache: Any) -> EvaluationCache | None:
    if cache == "default":
        cache = default_cache_path()
    return EvaluationCache(Path(cache)) if isinstance(cache, str | os.PathLike) else cache
