"""Model-based search: learn a surrogate model of the errors, and propose configurations by it."""

from __future__ import annotations

import warnings
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import getitem
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from agents.episodic import EpisodeOutcome, EpisodicSearch, Proposals
from agents.rules import RankRule
from shrinkml_env import SearchProblem, kept_energy
from shrinkml_env.checks import number, whole_number

__all__ = ["ModelBasedSearch"]

Choice = tuple[int, ...]
"""A configuration as the index of each layer's candidate."""

_DIVERGENCE_OFFSET = 0.01
"""Nats added to a divergence before its logarithm, since the original's is 0; a divergence this small hardly changes a
word."""


class ModelBasedSearch(EpisodicSearch):
    """A search by posterior sampling: it plays the best configuration under one sample of a Gaussian process.

    The Gaussian process over the layers' spectral errors, sqrt(1 - kept energy), predicts the logarithm of the error
    that the reward depends on: the WER, or the divergence from the original. Before each episode, the errors of many
    configurations are sampled jointly from its posterior, fitted noise included (posterior sampling, Osband et al.
    2013, arXiv 1306.0940). The reward function is applied to the sampled errors and the known sizes (a composite
    objective, Astudillo and Frazier 2019, arXiv 1906.01537), and the configuration with the best reward is played. No
    configuration is played twice. Under a constraint, configurations are first made feasible by smaller ranks for
    random layers.

    Args:
        env: The environment, see `EpisodicSearch`.
        warm_up: Number of random configurations before the first fit, at least 2.
        imagined: Number of configurations to compare before each episode, at least 2: some are random as in the
            warm-up, the others are mutations of the best ones so far.
        elites: Number of best configurations to mutate, at least 1.
        far: Share of random configurations among those compared, in [0, 1). With many layers the model is uncertain
            far from the played configurations, so that random ones are chosen too often; 0 uses mutations only.
        rules: Rules such as `UniformRank`, for a search with a limit on size: the configuration of each at this size is
            played first.
        seed: Seed; the same seed gives the same search.

    Raises:
        ValueError: `warm_up`, `imagined` or `elites` is not such a whole number, or `far` is out of range.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | None = None,
        warm_up: int = 5,
        imagined: int = 1000,
        elites: int = 5,
        far: float = 0.5,
        rules: Sequence[RankRule] = (),
        seed: int | None = None,
    ) -> None:
        number("far", far, at_least=0, below=1, meaning="a share")
        super().__init__(env, seed)
        self.warm_up = whole_number("warm_up", warm_up, least=2)
        self.imagined = whole_number("imagined", imagined, least=2)
        self.elites = whole_number("elites", elites, least=1)
        self.far = far
        self.rules = tuple(rules)

    def search(self, problem: SearchProblem) -> Proposals:
        """Propose the best configuration under a posterior sample; the search ends when all candidates were played.

        See `EpisodicSearch.search`.
        """
        problem.require_scalar_reward(type(self).__name__)
        random = np.random.default_rng(self.seed)
        surrogate, space = _Surrogate(problem), problem.search_space
        # The original's error is known without an episode.
        known: dict[Choice, float] = {space.places(space.dense): problem.error(problem.baseline)}
        played: list[tuple[EpisodeOutcome, Choice]] = []
        from_rules = list(dict.fromkeys(space.places(ranks) for ranks in self._rule_proposals(problem)))
        while True:
            number = len(played)
            choice = (
                from_rules[number]
                if number < len(from_rules)
                else self._next(random, surrogate, known, played, number - len(from_rules))
            )
            if choice is None:
                return
            outcome = yield space.ranks(choice)
            # The constraint may have changed the proposal.
            measured = space.places(outcome.ranks)
            known[choice] = known[measured] = outcome.error
            played.append((outcome, measured))

    def _next(
        self,
        random: np.random.Generator,
        surrogate: _Surrogate,
        known: Mapping[Choice, float],
        played: Sequence[tuple[EpisodeOutcome, Choice]],
        number: int,
    ) -> Choice | None:
        """Return the configuration to play after `number` earlier ones without those of rules; None if none is left."""
        counts = surrogate.counts
        if number < self.warm_up:
            pool = _sample(random, counts, self.imagined)
        else:
            best = sorted(played, key=lambda pair: (not pair[0].feasible, -pair[0].reward))[: self.elites]
            pool = _sample(random, counts, int(self.far * self.imagined))
            pool += _mutate(random, counts, [choice for _, choice in best], self.imagined - len(pool))
        pool = [surrogate.make_feasible(random, choice) for choice in pool]
        pool = [choice for choice in dict.fromkeys(pool) if choice not in known]
        if not pool:
            return None
        return pool[0] if number < self.warm_up else surrogate.sort_by_sampled_reward(random, known, pool)[0]

    def _rule_proposals(self, problem: SearchProblem) -> list[dict[str, int]]:
        if not self.rules:
            return []
        if problem.size_limit is None:
            raise ValueError(
                "rules give configurations of a size: they need a constraint on it, such as constraint=check"
            )
        return [rule.ranks_of_size(problem, problem.size_limit) for rule in self.rules]


class _Surrogate:
    """A surrogate model: a Gaussian process that predicts the rewards of configurations that were not played."""

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._space = problem.search_space
        self.counts = problem.search_space.counts
        self._named_ranks = [[(layer.name, rank) for rank in ranks] for layer, ranks in self._space.choices]
        self._signal = problem.signal
        values, original = problem.evaluator.singular_values, problem.baseline.macs
        lost = self._space.tabulate(lambda layer, rank: 1 - kept_energy(layer, rank, values))
        errors = [np.sqrt(list(of_layer.values())) for of_layer in lost]
        self._errors = [error / max(float(error.max()), 1e-12) for error in errors]
        # Multiply-adds saved by each candidate; they are additive over layers.
        saved_macs = self._space.tabulate(lambda layer, rank: original - problem.evaluator.macs({layer.name: rank}))
        self._saved_macs = [list(of_layer.values()) for of_layer in saved_macs]
        # Candidates from the cheapest to the dearest. Parameters increase with the rank; multiply-adds do as well,
        # except that a dense embedding has none.
        self._by_cost = [
            list(range(len(saved)))
            if problem.size_limit is not None
            else sorted(range(len(saved)), key=lambda place: -saved[place])
            for saved in self._saved_macs
        ]

    def sort_by_sampled_reward(
        self, random: np.random.Generator, known: Mapping[Choice, float], pool: Sequence[Choice]
    ) -> list[Choice]:
        """Sort configurations by descending reward, with errors that are sampled from the posterior.

        Args:
            random: Source of random numbers.
            known: Configuration -> measured error, to fit the Gaussian process.
            pool: The configurations to sort.
        """
        model = GaussianProcessRegressor(
            ConstantKernel(1.0, (1e-2, 1e2)) * Matern(np.ones(len(self.counts)), (5e-2, 2e1), nu=2.5)
            + WhiteKernel(1e-3, (1e-6, 1e-1)),
            normalize_y=True,
        )
        with warnings.catch_warnings():
            # A length scale may reach its bound: the layer has no effect, or a very strong one.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(self._features(known), self._log(np.array(list(known.values()))))
        mean, covariance = model.predict(self._features(pool), return_cov=True)
        # Equivalent to the model's own sample_y, but a Cholesky decomposition is many times faster.
        root = np.linalg.cholesky(covariance + 1e-8 * np.trace(covariance) / len(pool) * np.eye(len(pool)))
        drawn = np.exp(mean + root @ random.standard_normal(len(pool)))
        if self._signal == "divergence":
            drawn = np.maximum(0, drawn - _DIVERGENCE_OFFSET)
        rewards = [self._reward(choice, float(error)) for choice, error in zip(pool, drawn, strict=True)]
        return [pool[index] for index in np.argsort(rewards, kind="stable")[::-1]]

    def _log(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        one_word = 1 / sum(self._problem.baseline.words)
        positive = np.maximum(one_word, errors) if self._signal == "wer" else _DIVERGENCE_OFFSET + errors
        logarithms: NDArray[np.float64] = np.log(positive)
        return logarithms

    def _features(self, choices: Iterable[Choice]) -> NDArray[np.float64]:
        """Return the spectral error of every layer relative to its largest, (configurations, layers)."""
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

    def make_feasible(self, random: np.random.Generator, choice: Choice) -> Choice:
        """Return a feasible configuration near a given one.

        Random layers take random cheaper candidates until one of them can make the configuration feasible alone; it
        takes its dearest candidate that does.
        """
        while not self._is_feasible(choice):
            dearer = [index for index, place in enumerate(choice) if place != self._by_cost[index][0]]
            if not dearer:
                break
            layer = dearer[int(random.integers(len(dearer)))]
            places = self._by_cost[layer]
            cheaper = places[: places.index(choice[layer])]
            before, behind = choice[:layer], choice[layer + 1 :]
            if self._is_feasible((*before, cheaper[0], *behind)):
                dear = bisect(cheaper, False, key=lambda place: not self._is_feasible((*before, place, *behind)))
                return (*before, cheaper[dear - 1], *behind)
            choice = (*before, cheaper[int(random.integers(len(cheaper)))], *behind)
        return choice

    def _is_feasible(self, choice: Choice) -> bool:
        # Unlike `SearchProblem.is_feasible`, without checks of the ranks, which would take most of the time.
        return self._problem.constraint.feasible(dict(map(getitem, self._named_ranks, choice)))


def _sample(random: np.random.Generator, counts: Sequence[int], number: int) -> list[Choice]:
    """Sample random configurations; each has a random lower level for all layers, so that all sizes occur."""
    floors = np.floor(random.random((number, 1)) * np.array(counts))
    drawn = np.floor(floors + random.random((number, len(counts))) * (np.array(counts) - floors))
    return [tuple(places) for places in drawn.astype(int).tolist()]


def _mutate(random: np.random.Generator, counts: Sequence[int], best: Sequence[Choice], number: int) -> list[Choice]:
    """Sample mutations of the best configurations; two layers on average get a random candidate."""
    base = np.array(best)[random.integers(len(best), size=number)]
    other = np.floor(random.random(base.shape) * np.array(counts)).astype(int)
    changed = np.where(random.random(base.shape) < 2 / len(counts), other, base)
    return [tuple(places) for places in changed.tolist()]
