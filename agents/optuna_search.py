"""Search by a sampler of Optuna: TPE, CMA-ES, NSGA-II and others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import optuna

from agents.episodic import EpisodicSearch, Proposals
from shrinkml_env import SearchProblem

__all__ = ["OptunaSearch"]

_PATIENCE = 100
"""The number of repeated proposals in a row that end the search."""

_DIRECTIONS = {
    "reward": optuna.study.StudyDirection.MAXIMIZE,
    "wer": optuna.study.StudyDirection.MINIMIZE,
    "size_ratio": optuna.study.StudyDirection.MINIMIZE,
}


class OptunaSearch(EpisodicSearch):
    """A search in which a sampler of Optuna chooses the index of each layer's candidate.

    The search ends when the sampler only repeats earlier proposals.

    Args:
        env: The environment, see `EpisodicSearch`.
        sampler: A sampler of ``optuna.samplers``, with its own seed; None is TPE with `seed`.
        objectives: One of ``"reward"`` (the return), ``"wer"`` and ``"size_ratio"``, or several for multi-objective
            samplers.
        seed: Seed of the environment.

    Raises:
        ValueError: An objective is unknown, or there is none.
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

    def search(self, problem: SearchProblem) -> Proposals:
        """Propose the sampler's configurations, which may repeat earlier ones; see `EpisodicSearch.search`."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            directions=[_DIRECTIONS[objective] for objective in self.objectives], sampler=self.sampler
        )
        space = problem.search_space
        made: set[tuple[int, ...]] = set()
        repeated = 0
        while repeated < _PATIENCE:
            trial = study.ask()
            places = tuple(trial.suggest_int(layer.name, 0, len(candidates) - 1) for layer, candidates in space.choices)
            repeated = repeated + 1 if places in made else 0
            made.add(places)
            outcome = yield space.ranks(places)
            study.tell(trial, [getattr(outcome, objective) for objective in self.objectives])
