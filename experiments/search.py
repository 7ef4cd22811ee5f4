"""Search ranks for a model: ``python -m experiments.search agent=ppo reward=linear seed=0 budget=200``.

The search sees the proxy set alone. Its best configurations are measured on dev, the best of them there is compressed,
saved, and reported on test. Started again, the same command resumes: what was measured is read from its run directory.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import configure
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experiments.common.agent import episode_steps, make_agent
from experiments.common.fetch import fetch
from experiments.common.report import Result, SetResult, print_result, write_report
from experiments.common.run_directory import plain, run_directory, write_json
from experiments.common.statistics import wer_increase
from shrinkml_env import (
    BudgetExhausted,
    CompressibleModel,
    Evaluation,
    EvaluationCache,
    Evaluator,
    Ledger,
    SearchProblem,
    compress,
    default_cache_path,
    encoder_parameters,
    load_utterances,
    save_compressed,
)
from shrinkml_env.evaluation.ledger import SupportsEvaluate
from shrinkml_env.sb3 import ShrinkVecEnv
from shrinkml_env.space.search_space import uniform_ranks

SETTINGS = ("agent", "action", "observation", "reward", "constraint", "shaping", "factorisation")
"""The config groups that a report names."""

CURVE_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the break-even rank: the uniform-rank curve in the picture."""


class WatchedLedger(Ledger):
    """A ledger that shows every new evaluation: on a progress bar, and in the TensorBoard log."""

    def __init__(self, directory: Path, budget: int) -> None:
        super().__init__(directory / "evaluations.jsonl", budget)
        self._log = SummaryWriter(str(directory / "tensorboard"))
        self._bar = tqdm(total=budget, desc="search", unit="evaluation")

    def evaluate(self, evaluator: SupportsEvaluate, ranks: Mapping[str, int]) -> Evaluation:
        """As `Ledger.evaluate`."""
        before = self.count
        evaluation = super().evaluate(evaluator, ranks)
        if self.count > before:
            self._bar.update()
            self._bar.set_postfix(wer=f"{100 * evaluation.wer:.1f}%", size=f"{evaluation.size_ratio:.2f}")
            self._log.add_scalar("evaluation/wer", evaluation.wer, self.count)
            self._log.add_scalar("evaluation/size_ratio", evaluation.size_ratio, self.count)
        return evaluation

    def close(self) -> None:
        """The search is over."""
        super().close()
        self._bar.close()
        self._log.close()


def steps_for(env: Any, budget: int) -> int:
    """The steps after which a run ends that has not spent its budget of unique evaluations: 20 times as many episodes.

    An agent that repeats itself costs no evaluations.
    """
    return 20 * budget * episode_steps(env)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has to show.

    Attributes:
        result: The outcome.
        history: Every configuration that the search measured on the proxy set.
        uniform: The uniform-rank curve on the proxy set.
        factorisation: See `describe_factorisation`.
    """

    result: Result
    history: tuple[Evaluation, ...]
    uniform: list[Evaluation]
    factorisation: dict[str, Any]


def search(config: DictConfig, title: str) -> Path:
    """One run; returns its directory.

    Raises:
        ValueError: See `find`.
    """
    check(config)
    directory = run_directory(config, title, besides=("workers", "memory_mb"))
    conclude(config, directory, find(config, directory, title))
    return directory


def check(config: DictConfig) -> None:
    """Find out what is wrong with a config before anything is made.

    Raises:
        ValueError: A number in the config is out of range, or the reward is a vector.
    """
    for key in ("budget", "finalists", "num_envs"):
        if config[key] < 1:
            raise ValueError(f"{key} must be at least 1, got {config[key]}")
    for module in config.imports:
        importlib.import_module(module)
    _require_classes(config)
    if getattr(instantiate(config.reward), "space", None) is not None:
        raise ValueError("a search has one best configuration, so it needs a scalar reward: not reward=vector")


def find(config: DictConfig, directory: Path, title: str) -> Found:
    """Search, choose, save the original and the compressed model, measure them; or go on with what is there.

    Raises:
        ValueError: A part of the config does not fit the model or the data.
    """
    problem, sets = explore(config, directory)
    ranks = choose(problem, sets["dev"], config.finalists).ranks
    proxy, space = sets["proxy"], problem.search_space
    compressed = compress(proxy.model, proxy.matrix_ranks(ranks), proxy.factorisation)
    save_compressed(proxy.model, directory / "original")
    save_compressed(compressed, directory / "compressed")
    measured = {
        name: (evaluator.baseline, evaluator.evaluate(ranks))
        for name, evaluator in tqdm(sets.items(), desc="chosen on every set")
    }
    result = Result(
        title=title,
        settings={
            **{name: _label(config[name]) for name in SETTINGS},
            "search space": f"{_label(config.search_space)}, {space.size:.1e} configurations",
            "budget": f"{config.budget} unique evaluations",
            "seed": str(config.seed),
        },
        layers=problem.layers,
        ranks=dict(ranks),
        params=(proxy.baseline.params, proxy.params(ranks)),
        encoder_params=_encoder_params(proxy.model, compressed),
        file_bytes=(_file_bytes(directory / "original"), _file_bytes(directory / "compressed")),
        sets={name: SetResult.of(*pair) for name, pair in measured.items()},
        rewards={name: float(problem.reward_function(after, before)) for name, (before, after) in measured.items()},
        evaluations=problem.ledger.count,
        wer_increase=wer_increase(measured["test"][1].edits, measured["test"][0].edits, measured["test"][0].words),
    )
    curve = [
        proxy.evaluate(uniform_ranks(problem.layers, fraction))
        for fraction in tqdm(CURVE_FRACTIONS, desc="uniform-rank curve", unit="evaluation")
    ]
    return Found(result, problem.ledger.evaluations, curve, describe_factorisation(config.factorisation, proxy))


def explore(config: DictConfig, directory: Path) -> tuple[SearchProblem, dict[str, Evaluator]]:
    """Let the agent spend its budget, or what is left of it.

    Returns:
        The problem, whose history holds all that the agent has measured; and an evaluator on each set, proxy first.

    Raises:
        ValueError: A part of the config does not fit the model or the data.
    """
    # One core a process: two busy threads on two busy cores are far slower than one.
    torch.set_num_threads(1)
    fetch(config, "proxy", "dev", "test")
    sets = {name: plain(config[name]) for name in ("proxy", "dev", "test")}
    # All are read before the search, so that whatever is wrong with them loses no work.
    loaded = {name: load_utterances(sets[name]) for name in ("dev", "test")}
    cache = EvaluationCache(default_cache_path())
    ledger = WatchedLedger(directory, config.budget)
    arguments = {
        "model": config.model.name,
        "proxy": sets["proxy"],
        "action": instantiate(config.action),
        "observation": instantiate(config.observation),
        "reward": instantiate(config.reward),
        "constraint": instantiate(config.constraint),
        "shaping": instantiate(config.shaping),
        "search_space": instantiate(config.search_space),
        "factorisation": instantiate(config.factorisation),
        "granularity": plain(config.granularity),
        "device": config.device,
        "cache": cache,
        "ledger": ledger,
        "workers": config.workers,
        "memory_mb": config.memory_mb,
    }
    env: Any
    if config.num_envs == 1:
        env = gym.make("ShrinkML-v0", **arguments)
        single: Any = env.unwrapped
    else:
        env = ShrinkVecEnv(gym.make_vec("ShrinkML-v0", num_envs=config.num_envs, **arguments))  # type: ignore[arg-type]
        single = env.envs.envs[0]
    problem: SearchProblem = single.problem
    proxy = problem.evaluator
    assert isinstance(proxy, Evaluator)
    space = problem.search_space
    print(f"search space: {len(space.layers)} layers, {space.size:.1e} configurations")
    agent = make_agent(config.agent, env, single)
    if isinstance(agent, BaseAlgorithm):
        agent.set_logger(configure(str(directory / "tensorboard"), ["tensorboard"]))
    # Exhausting the budget is how most searches end.
    with suppress(BudgetExhausted), closing(env), closing(ledger):
        agent.learn(total_timesteps=steps_for(single, config.budget))
    agent.save(directory / "agent")
    return problem, {"proxy": proxy, **{name: proxy.on(utterances) for name, utterances in loaded.items()}}


def _encoder_params(original: CompressibleModel, compressed: CompressibleModel) -> tuple[int, int] | None:
    """If the model says which module it is."""
    try:
        return encoder_parameters(original), encoder_parameters(compressed)
    except ValueError:
        return None


def conclude(config: DictConfig, directory: Path, found: Found) -> None:
    """Write the report and ``best.json``, which says that the run is finished, and tell the outcome."""
    write_report(directory, found.result, found.history, found.uniform)
    subject = {
        "model": config.model.name,
        "factorisation": found.factorisation,
        "granularity": plain(config.granularity),
        "utterances": {name: plain(config[name]) for name in ("proxy", "dev", "test")},
    }
    write_json(directory / "best.json", {**found.result.to_json(), **subject})
    print_result(found.result, directory)


def describe_factorisation(part: DictConfig, evaluator: Evaluator) -> dict[str, Any]:
    """What `shrinkml_env.envs.registration.make_factorisation` makes it of again: its name and its options."""
    options = {name: value for name, value in plain(part).items() if not name.startswith("_")}
    return {"name": evaluator.factorisation_name, **options}


def _require_classes(config: DictConfig) -> None:
    """Find out before anything is made whether the classes that the config names are there."""
    for group in (*SETTINGS, "search_space"):
        if OmegaConf.is_missing(config[group], "_target_"):
            raise ValueError(f"{group}=custom needs the path of your class: {group}._target_=my.module.MyClass")
        target = config[group]._target_
        try:
            found = pkgutil.resolve_name(target)
        except (ImportError, AttributeError, ValueError) as error:
            where = "its module must lie in this folder or on PYTHONPATH"
            raise ValueError(f"{group}._target_={target} cannot be imported: {error}; {where}") from error
        if not callable(found):
            raise ValueError(f"{group}._target_={target} is not a class but a {type(found).__name__}")
        _require_options(group, config[group], found)


def _require_options(group: str, part: DictConfig, found: Any) -> None:
    """Raise a ValueError that names the options of a class if the config has others, or lacks one."""
    parameters = inspect.signature(found).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    valid = ", ".join(name for name in parameters if name not in ("self", "env")) or "none"
    for option in part:
        if not str(option).startswith("_") and option not in parameters and not open_ended:
            raise ValueError(f"{group}: {part._target_} has no option {option!r}; its options are {valid}")
        if OmegaConf.is_missing(part, option):
            raise ValueError(f"{group}: {part._target_} needs its option {option!r}: give {group}.{option!s}=...")


def choose(problem: SearchProblem, dev: Evaluator, finalists: int) -> Evaluation:
    """The configuration that is best on dev among the best on proxy, by the search's own reward."""
    if not problem.history:
        raise ValueError("the search has evaluated nothing: its agent finished no episode, or the budget is 0")
    finals = [trial for trial in problem.ranking[:finalists] if trial.feasible or not problem.ranking[0].feasible]
    with closing(dev):
        found = dev.evaluate_many([trial.ranks for trial in finals])
        measured = list(tqdm(found, total=len(finals), desc="finalists on dev", unit="evaluation"))
    return max(measured, key=lambda evaluation: float(problem.reward_function(evaluation, dev.baseline)))


def _label(part: Any) -> str:
    """``Linear(size_weight=0.2)`` of a config group's choice; what is nested likewise."""
    if not OmegaConf.is_dict(part):
        return str(part)
    options = ", ".join(f"{name!s}={_label(value)}" for name, value in part.items() if not str(name).startswith("_"))
    return f"{part._target_.rpartition('.')[2]}({options})" if "_target_" in part else f"{{{options}}}"


def _file_bytes(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


@hydra.main(version_base="1.3", config_path="../conf", config_name="search")
def main(config: DictConfig) -> None:
    """One search; Hydra's multirun makes many."""
    choices = HydraConfig.get().runtime.choices
    agent = choices["agent"]
    if agent == "custom" and not OmegaConf.is_missing(config.agent, "_target_"):
        agent = config.agent._target_.rpartition(".")[2]
    search(config, f"{agent}-{choices['reward']}-{config.seed}")


if __name__ == "__main__":
    main()
