"""One search without a folder of its own: what benchmarks and studies play by the hundred."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.common.agent import make_agent
from experiments.common.run_directory import plain
from experiments.search import steps_for
from shrinkml_env import (
    BudgetExhausted,
    Evaluator,
    Ledger,
    SearchProblem,
    load_utterances,
)
from shrinkml_env.space.table import Table

__all__ = [
    "CONF",
    "Run",
    "Task",
    "compose_search",
    "digest",
    "evaluator_on",
    "make_env",
    "play",
    "play_as_json",
    "require_lists",
    "spend",
]

CONF = Path(__file__).parents[2] / "conf"


@dataclass(frozen=True, slots=True)
class Task:
    """One run to make.

    Attributes:
        env: ``"tabular"`` or ``"live"``.
        agent: Name in conf/agent.
        reward: Name in conf/reward.
        seed: Of the agent.
        budget: Unique evaluations.
        overrides: Of conf/search.yaml, besides.
    """

    env: str
    agent: str
    reward: str
    seed: int
    budget: int
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a task: lists have one entry for each unique evaluation, in order."""

    agent: str
    reward: str
    seed: int
    rewards: list[float]
    feasible: list[bool]
    wer: list[float]
    size_ratio: list[float]


def require_lists(**lists: Any) -> None:
    """Find out what is wrong with lists in a config before anything is made.

    Raises:
        ValueError: One is no list, is empty, or holds something twice.
    """
    for key, names in lists.items():
        if not OmegaConf.is_list(names):
            raise ValueError(f"{key} must be a list, got {names!r}: give {key}=[{names}]")
        distinct = {str(name) for name in names}
        if not names or len(distinct) < len(names):
            raise ValueError(f"{key} must hold at least one, and nothing twice, got [{', '.join(map(str, names))}]")


def play(task: Task) -> Run:
    """Make a run."""
    history = spend(task).history
    return Run(
        agent=task.agent,
        reward=task.reward,
        seed=task.seed,
        rewards=[float(trial.reward) for trial in history],
        feasible=[trial.feasible for trial in history],
        wer=[trial.evaluation.wer for trial in history],
        size_ratio=[trial.evaluation.size_ratio for trial in history],
    )


def play_as_json(task: Task) -> dict[str, Any]:
    """The arguments of a `Run`."""
    return asdict(play(task))


def spend(task: Task, cache: Any = "default") -> SearchProblem:
    """Let the agent spend its budget; what it has measured is in the problem's history.

    Args:
        task: The run.
        cache: As in `shrinkml_env.envs.registration.make_env`, for live runs.

    Raises:
        ValueError: The agent ended without having measured anything.
    """
    torch.set_num_threads(1)
    config = compose_search(task)
    for module in config.imports:
        importlib.import_module(module)
    env = make_env(task, config, cache)
    agent = make_agent(config.agent, env)
    with suppress(BudgetExhausted):
        agent.learn(total_timesteps=steps_for(env, task.budget))
    problem: SearchProblem = env.unwrapped.problem  # type: ignore[attr-defined]
    if not problem.history:
        raise ValueError(f"agent {task.agent!r} has measured nothing: its `learn` finished no episode")
    return problem


def evaluator_on(problem: SearchProblem, config: DictConfig, name: str) -> Evaluator:
    """Of the same model and factors as a live run's, on another of the config's sets: ``"dev"`` or ``"test"``."""
    proxy = problem.evaluator
    assert isinstance(proxy, Evaluator)
    return proxy.on(load_utterances(plain(config[name])))


def compose_search(task: Task) -> DictConfig:
    """What `experiments.search` would be given."""
    # This program's own config is still there when the scores are made.
    GlobalHydra.instance().clear()
    overrides = [f"agent={task.agent}", f"reward={task.reward}", f"seed={task.seed}", *task.overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("search", overrides=overrides)


def digest(task: Task) -> str:
    """Of all that a run depends on but its seed and its budget: another digest is another file.

    The code of your own classes is in it, that of ShrinkML and of what is installed is not.
    """
    config = OmegaConf.to_container(compose_search(replace(task, seed=0)), resolve=True)
    assert isinstance(config, dict)
    del config["outputs"]
    table = Table.load().content if task.env == "tabular" else ""
    content = [config, table, *_own_code(config)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _own_code(config: Mapping[Any, Any]) -> list[str]:
    """The modules that a config names and that are neither ShrinkML's nor installed."""
    targets = {part["_target_"] for part in config.values() if isinstance(part, dict) and "_target_" in part}
    found = []
    for module in sorted({target.rpartition(".")[0] for target in targets}):
        if module.partition(".")[0] not in ("agents", "shrinkml_env"):
            spec = find_spec(module)
            if spec is not None and spec.origin and "site-packages" not in spec.origin:
                found.append(Path(spec.origin).read_text())
    return found


def make_env(task: Task, config: DictConfig, cache: Any = "default") -> gym.Env[Any, Any]:
    """The environment of a run, on its own ledger."""
    parts: dict[str, Any] = {
        name: instantiate(config[name]) for name in ("action", "observation", "reward", "constraint")
    }
    ledger = Ledger(budget=task.budget)
    if task.env == "tabular":
        return gym.make("ShrinkMLTabular-v0", **parts, ledger=ledger)
    return gym.make(
        "ShrinkML-v0",
        model=config.model.name,
        proxy=plain(config.proxy),
        shaping=instantiate(config.shaping),
        search_space=instantiate(config.search_space),
        factorisation=instantiate(config.factorisation),
        granularity=plain(config.granularity),
        cache=cache,
        ledger=ledger,
        **parts,
    )
