"""Optuna's samplers: TPE, CMA-ES, NSGA-II and whatever else it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import optuna

from agents.episodic import EpisodicSearch, Proposals

__all__ = ["OptunaSearch"]

_DIRECTIONS = {
    "reward": optuna.study.StudyDirection.MAXIMIZE,
    "wer": optuna.study.StudyDirection.MINIMIZE,
    "size_ratio": optuna.study.StudyDirection.MINIMIZE,
}


class OptunaSearch(EpisodicSearch):
    """Lets a sampler of Optuna choose the index of each layer's candidate.

    Args:
        env: As in `EpisodicSearch`.
        sampler: Any of ``optuna.samplers``, with its own seed.
        objectives: Of ``"reward"`` (the return), ``"wer"`` and ``"size_ratio"``: one, or several for samplers of
            Pareto fronts.
        seed: Of the environment; the sampler has its own.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | None = None,
        sampler: optuna.samplers.BaseSampler | None = None,
        objectives: Sequence[str] = ("reward",),
        seed: int | None = None,
    ) -> None:
        unknown = set(objectives) - set(_DIRECTIONS)
        if unknown or not objectives:
            raise ValueError(f"objectives must be some of {', '.join(_DIRECTIONS)}, got {tuple(objectives)}")
        super().__init__(env, seed)
        self.sampler = optuna.samplers.TPESampler(seed=seed) if sampler is None else sampler
        self.objectives = tuple(objectives)

    def search(self, problem: Any) -> Proposals:
        """See `EpisodicSearch.search`; a proposal may repeat an earlier one."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            directions=[_DIRECTIONS[objective] for objective in self.objectives], sampler=self.sampler
        )
        while True:
            trial = study.ask()
            outcome = yield {
                layer.name: ranks[trial.suggest_int(layer.name, 0, len(ranks) - 1)]
                for layer, ranks in zip(problem.layers, problem.candidates, strict=True)
            }
            study.tell(trial, [getattr(outcome, objective) for objective in self.objectives])
