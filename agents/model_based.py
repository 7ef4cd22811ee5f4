"""Learning a model of the errors and planning with it."""

from __future__ import annotations

import warnings
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from agents.episodic import EpisodicSearch, Outcome, Proposals
from agents.rules import Rule
from shrinkml_env import SearchProblem, kept_energy
from shrinkml_env.mdp.rewards import signal_of

__all__ = ["ModelBasedSearch"]

Choice = tuple[int, ...]
"""The place of each layer's rank among its candidates."""


_LITTLE = 0.01
"""Nats that hardly move a word: the logarithm of a divergence is taken of so much more, since the original's is 0."""


class ModelBasedSearch(EpisodicSearch):
    """Learns what ranks do to the errors, and plays what would be best if one draw of what it believes were true.

    A Gaussian process over the layers' spectral errors, sqrt(1 - kept energy), predicts the log of what the reward
    depends on: the WER, or the divergence from the original. Before each episode the errors of many configurations are
    drawn from its posterior, together with the noise that it has fitted (posterior sampling, Osband et al. 2013, arXiv
    1306.0940). Their sizes need no prediction: the reward function itself is applied to the drawn errors (a composite
    objective, Astudillo and Frazier 2019, arXiv 1906.01537), and the best of them is played. No configuration is played
    twice. Under a constraint all are made feasible first, by smaller ranks for some layers.

    Args:
        env: As in `EpisodicSearch`.
        warm_up: Configurations that are drawn at random before the first plan; at least 2.
        imagined: Configurations that each plan compares, at least 2: some of them drawn as in the warm-up, the others
            changed from the best ones so far.
        elites: How many of the best ones so far are changed.
        far: Share of the imagined that are drawn, in [0, 1). With many layers little is known far from what has been
            played, so that much is hoped for there: 0 stays near.
        rules: Rules such as `UniformRank`, for a search under a budget of parameters: what each makes of just that
            size is played first.
        seed: The same seed gives the same search.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | None = None,
        warm_up: int = 5,
        imagined: int = 1000,
        elites: int = 5,
        far: float = 0.5,
        rules: Sequence[Rule] = (),
        seed: int | None = None,
    ) -> None:
        for name, value, least in ("warm_up", warm_up, 2), ("imagined", imagined, 2), ("elites", elites, 1):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value!r}")
        if not 0 <= far < 1:
            raise ValueError(f"far must be a share in [0, 1), got {far!r}")
        super().__init__(env, seed)
        self.warm_up, self.imagined, self.elites, self.far = warm_up, imagined, elites, far
        self.rules = tuple(rules)

    def search(self, problem: SearchProblem) -> Proposals:
        """Play what looks best; the search ends when it can think of nothing new."""
        problem.require_scalar_reward(type(self).__name__)
        random = np.random.default_rng(self.seed)
        imagination, space = _Imagination(problem), problem.search_space
        # The original is known without being played.
        known: dict[Choice, float] = {space.places(space.dense): problem.error(problem.baseline)}
        played: list[tuple[Outcome, Choice]] = []
        ruled = [space.places(ranks) for ranks in self._ruled(problem)]
        while True:
            number = len(played)
            choice = (
                ruled[number]
                if number < len(ruled)
                else self._next(random, imagination, known, played, number - len(ruled))
            )
            if choice is None:
                return
            outcome = yield space.ranks(choice)
            # A constraint may have made something else of it: that is what has been measured.
            measured = space.places(outcome.ranks)
            known[choice] = known[measured] = outcome.error
            played.append((outcome, measured))

    def _next(
        self,
        random: np.random.Generator,
        imagination: _Imagination,
        known: Mapping[Choice, float],
        played: Sequence[tuple[Outcome, Choice]],
        number: int,
    ) -> Choice | None:
        """Return what is played after so many draws and plans, if anything is left."""
        counts = imagination.counts
        if number < self.warm_up:
            pool = _draw(random, counts, self.imagined)
        else:
            best = sorted(played, key=lambda pair: (not pair[0].feasible, -pair[0].reward))[: self.elites]
            pool = _draw(random, counts, int(self.far * self.imagined))
            pool += _change(random, counts, [choice for _, choice in best], self.imagined - len(pool))
        pool = [imagination.within(random, choice) for choice in pool]
        pool = [choice for choice in dict.fromkeys(pool) if choice not in known]
        if not pool:
            return None
        return pool[0] if number < self.warm_up else imagination.order(random, known, pool)[0]

    def _ruled(self, problem: SearchProblem) -> list[dict[str, int]]:
        if not self.rules:
            return []
        if problem.size_limit is None:
            raise ValueError(
                "rules give configurations of a size: they need a constraint on it, such as constraint=check"
            )
        return [rule.ranks_of_size(problem, problem.size_limit) for rule in self.rules]


class _Imagination:
    """Judges configurations that have not been played."""

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._space = problem.search_space
        self.counts = problem.search_space.counts
        self._signal = signal_of(problem.reward_function)
        values, original = problem.evaluator.singular_values, problem.baseline.macs
        lost = self._space.tabulate(lambda layer, rank: 1 - kept_energy(layer, rank, values))
        errors = [np.sqrt(list(of_layer.values())) for of_layer in lost]
        self._errors = [error / max(float(error.max()), 1e-12) for error in errors]
        # Multiply-adds are a sum over the layers.
        saved_macs = self._space.tabulate(lambda layer, rank: original - problem.evaluator.macs({layer.name: rank}))
        self._saved_macs = [list(of_layer.values()) for of_layer in saved_macs]
        # Parameters grow with the rank; so do multiply-adds, but that a dense embedding has none.
        self._by_cost = [
            list(range(len(saved)))
            if problem.size_limit is not None
            else sorted(range(len(saved)), key=lambda place: -saved[place])
            for saved in self._saved_macs
        ]

    def order(self, random: np.random.Generator, known: Mapping[Choice, float], pool: Sequence[Choice]) -> list[Choice]:
        """Sort the pool by falling reward, under errors that are drawn from what is believed."""
        model = GaussianProcessRegressor(
            ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.ones(len(self.counts)), (5e-2, 2e1), nu=2.5)
            + WhiteKernel(1e-3, (1e-6, 1e-1)),
            normalize_y=True,
        )
        with warnings.catch_warnings():
            # A length scale at its bound is a layer that does not matter, or matters at once.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(self._features(known), self._log(np.array(list(known.values()))))
        mean, covariance = model.predict(self._features(pool), return_cov=True)
        # As the model's own sample_y, whose decomposition takes many times as long as Cholesky's.
        root = np.linalg.cholesky(covariance + 1e-8 * np.trace(covariance) / len(pool) * np.eye(len(pool)))
        drawn = np.exp(mean + root @ random.standard_normal(len(pool)))
        if self._signal == "divergence":
            drawn = np.maximum(0, drawn - _LITTLE)
        rewards = [self._reward(choice, float(error)) for choice, error in zip(pool, drawn, strict=True)]
        return [pool[index] for index in np.argsort(rewards, kind="stable")[::-1]]

    def _log(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        one_word = 1 / sum(self._problem.baseline.words)
        positive = np.maximum(one_word, errors) if self._signal == "wer" else _LITTLE + errors
        logarithms: NDArray[np.float64] = np.log(positive)
        return logarithms

    def _features(self, choices: Iterable[Choice]) -> NDArray[np.float64]:
        """Return the spectral error of every layer, over its candidates' largest: (configurations, layers)."""
        return np.array(
            [[error[place] for error, place in zip(self._errors, choice, strict=True)] for choice in choices]
        )

    def _reward(self, choice: Choice, error: float) -> float:
        baseline = self._problem.baseline
        ranks = self._space.ranks(choice)
        params = self._problem.params_after(tuple(ranks.values()))
        words = sum(baseline.words)
        measured: dict[str, Any] = {"edits": (round(error * words),), "words": (words,)}
        if self._signal == "divergence":
            measured = {"divergence": error}
        evaluation = replace(
            baseline,
            **measured,
            ranks=ranks,
            params=params,
            size_ratio=params / baseline.params,
            macs=baseline.macs - sum(saved[place] for saved, place in zip(self._saved_macs, choice, strict=True)),
        )
        return float(self._problem.reward_function(evaluation, baseline))

    def within(self, random: np.random.Generator, choice: Choice) -> Choice:
        """Make it feasible: random layers take cheaper candidates in turn, the last one the dearest that will do."""
        while not self._is_feasible(choice):
            dearer = [index for index, place in enumerate(choice) if place != self._by_cost[index][0]]
            if not dearer:
                break
            layer = int(random.choice(dearer))
            places = self._by_cost[layer]
            cheaper = [
                (*choice[:layer], place, *choice[layer + 1 :]) for place in places[: places.index(choice[layer])]
            ]
            if self._is_feasible(cheaper[0]):
                return cheaper[bisect(cheaper, False, key=lambda one: not self._is_feasible(one)) - 1]
            choice = cheaper[int(random.integers(len(cheaper)))]
        return choice

    def _is_feasible(self, choice: Choice) -> bool:
        # Candidates need no checking, which takes most of the time of the problem's own `is_feasible`.
        return self._problem.constraint.feasible(self._space.ranks(choice))


def _draw(random: np.random.Generator, counts: Sequence[int], number: int) -> list[Choice]:
    """Draw random configurations, each above a level of its own: from those that dare little to those that dare all."""
    floors = np.floor(random.random((number, 1)) * np.array(counts))
    drawn = np.floor(floors + random.random((number, len(counts))) * (np.array(counts) - floors))
    return [tuple(places) for places in drawn.astype(int).tolist()]


def _change(random: np.random.Generator, counts: Sequence[int], best: Sequence[Choice], number: int) -> list[Choice]:
    """Draw configurations that differ from one of these in two layers on average."""
    base = np.array(best)[random.integers(len(best), size=number)]
    other = np.floor(random.random(base.shape) * np.array(counts)).astype(int)
    changed = np.where(random.random(base.shape) < 2 / len(counts), other, base)
    return [tuple(places) for places in changed.tolist()]
