"""Construction of environments from the config of a search."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from omegaconf import DictConfig

from experiments.common.compose import to_container
from experiments.common.imports import import_modules
from experiments.common.parts import part
from shrinkml_env import Ledger
from shrinkml_env.sb3 import ShrinkVecEnv

__all__ = ["make_environment", "make_tabular_environment"]

ON_A_TABLE = ("action", "observation", "reward", "constraint")
"""The parts that are arguments of tabular environments; the table determines the others."""

LIVE = (*ON_A_TABLE, "shaping", "search_space", "factorisation")


def make_environment(config: DictConfig, ledger: Ledger, cache: Any = "default") -> Any:
    """Make ``ShrinkML-v0`` from a config: a single environment, or a `ShrinkVecEnv` with `num_envs` environments.

    Args:
        config: A config of `experiments.search`.
        ledger: The ledger that counts the evaluations.
        cache: The argument of ``gym.make("ShrinkML-v0", cache=...)``.

    Raises:
        ValueError: A part does not fit the model or the data.
    """
    import_modules(config.imports)  # a worker process has not imported them yet
    arguments: dict[str, Any] = {
        **{name: part(name, config[name]) for name in LIVE},
        "model": config.model,
        "proxy": to_container(config.proxy),
        "granularity": to_container(config.granularity),
        "dense": to_container(config.dense),
        "device": config.device,
        "workers": config.workers,
        "memory_mb": config.memory_mb,
        "cache": cache,
        "ledger": ledger,
    }
    if config.num_envs == 1:
        return gym.make("ShrinkML-v0", **arguments)
    return ShrinkVecEnv(gym.make_vec("ShrinkML-v0", num_envs=config.num_envs, **arguments))  # type: ignore[arg-type]


def make_tabular_environment(config: DictConfig, ledger: Ledger, table: str = "las_small") -> gym.Env[Any, Any]:
    """Make ``ShrinkMLTabular-v0`` from a config of `experiments.search`; only the parts of `ON_A_TABLE` are used."""
    import_modules(config.imports)
    parts = {name: part(name, config[name]) for name in ON_A_TABLE}
    return gym.make("ShrinkMLTabular-v0", **parts, table=table, ledger=ledger)
