"""Search ranks for a model: ``python -m experiments.search agent=ppo reward=linear seed=0 budget=200``.

The search sees the proxy set alone. Its best configurations are measured on dev, the best of them there is compressed,
saved, and reported on test. Started again, the same command resumes: what was measured is read from its run directory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
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

from experiments.report import Result, SetResult, print_result, write_report
from experiments.run_directory import run_directory
from experiments.uniform_curve import uniform_ranks
from shrinkml_env import (
    BudgetExhausted,
    Evaluation,
    EvaluationCache,
    Evaluator,
    Ledger,
    SearchProblem,
    compress,
    default_cache_path,
    load_model,
    save_compressed,
)
from shrinkml_env.data import load_utterances

EPISODES_PER_EVALUATION = 20
"""A run ends at its budget of unique evaluations, or after so many times as many episodes."""

CURVE_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the break-even rank: the uniform-rank curve in the picture."""


class WatchedLedger(Ledger):
    """A ledger that shows its progress."""

    def __init__(self, path: Path, budget: int, log: SummaryWriter) -> None:
        super().__init__(path, budget)
        self._log = log
        self._bar = tqdm(total=budget, desc="search", unit="evaluation")

    def evaluate(self, evaluator: Any, ranks: Mapping[str, int]) -> Evaluation:
        """As `Ledger.evaluate`; a new configuration moves the bar."""
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
        self._bar.close()
        self._log.close()


def search(config: DictConfig, title: str) -> Path:
    """One run; returns its directory."""
    # One core a process: two busy threads on two busy cores are far slower than one.
    torch.set_num_threads(1)
    directory = run_directory(config, title)
    sets = OmegaConf.to_container(OmegaConf.create({name: config[name] for name in ("proxy", "dev", "test")}))
    assert isinstance(sets, dict)
    model = load_model(config.model.name)
    cache = EvaluationCache(default_cache_path())
    ledger = WatchedLedger(
        directory / "evaluations.jsonl", config.budget, SummaryWriter(str(directory / "tensorboard"))
    )
    env = gym.make(
        "ShrinkML-v0",
        model=model,
        proxy=load_utterances(sets["proxy"]),
        action=instantiate(config.action),
        observation=instantiate(config.observation),
        reward=instantiate(config.reward),
        granularity=config.granularity,
        device=config.device,
        cache=cache,
        ledger=ledger,
    )
    problem: SearchProblem = env.unwrapped.problem  # type: ignore[attr-defined]
    agent = instantiate(config.agent, env=env)
    if isinstance(agent, BaseAlgorithm):
        agent.set_logger(configure(str(directory / "tensorboard"), ["tensorboard"]))
    steps = EPISODES_PER_EVALUATION * config.budget * len(problem.layers)
    try:
        agent.learn(total_timesteps=steps)
    except BudgetExhausted:
        pass
    finally:
        ledger.close()
    agent.save(directory / "agent")

    dev = Evaluator(model, load_utterances(sets["dev"]), config.granularity, cache)
    test = Evaluator(model, load_utterances(sets["test"]), config.granularity, cache)
    chosen = _choose(problem, dev, config.finalists)
    compressed = compress(model, chosen.ranks)
    save_compressed(compressed, directory / "compressed")
    save_compressed(model, directory / "original")
    result = Result(
        title=title,
        layers=problem.layers,
        ranks=dict(chosen.ranks),
        params=(problem.baseline.params, chosen.params),
        file_bytes=(_file_bytes(directory / "original"), _file_bytes(directory / "compressed")),
        sets={
            name: SetResult.of(evaluator.baseline, evaluator.evaluate(chosen.ranks))
            for name, evaluator in (("proxy", problem.evaluator), ("dev", dev), ("test", test))
        },
        evaluations=ledger.count,
    )
    aside = directory / "best.json.tmp"
    aside.write_text(json.dumps({**result.to_json(), "dev_set": sets["dev"], "test_set": sets["test"]}, indent=2))
    os.replace(aside, directory / "best.json")
    curve = [
        problem.evaluator.evaluate(uniform_ranks(problem.layers, fraction))
        for fraction in tqdm(CURVE_FRACTIONS, desc="uniform-rank curve")
    ]
    write_report(directory, result, [trial.evaluation for trial in problem.history], curve)
    print_result(result, directory)
    return directory


def _choose(problem: SearchProblem, dev: Evaluator, finalists: int) -> Evaluation:
    """The configuration that is best on dev among the best on proxy, by the search's own reward."""
    ranking = sorted(problem.history, key=lambda trial: trial.reward, reverse=True)
    measured = [
        dev.evaluate(trial.ranks) for trial in tqdm(ranking[:finalists], desc="finalists on dev", unit="evaluation")
    ]
    return max(measured, key=lambda evaluation: float(problem.reward_function(evaluation, dev.baseline)))


def _file_bytes(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


@hydra.main(version_base="1.3", config_path="../conf", config_name="search")
def main(config: DictConfig) -> None:
    """One search; Hydra's multirun makes many."""
    choices = HydraConfig.get().runtime.choices
    search(config, f"{choices['agent']}-{choices['reward']}-{config.seed}")


if __name__ == "__main__":
    main()
