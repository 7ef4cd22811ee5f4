"""The search problem: the interface of black-box searchers, on which the environment is built as well."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from shrinkml_env.checks import is_number
from shrinkml_env.compression.layers import Layer, canonical_ranks
from shrinkml_env.evaluation.ledger import Ledger
from shrinkml_env.evaluation.protocol import SupportsEvaluate
from shrinkml_env.evaluation.result import Evaluation
from shrinkml_env.mdp.constraints import Constraint, Unconstrained
from shrinkml_env.mdp.rewards import RewardFunction, Signal, signal_of
from shrinkml_env.space.search_space import SearchSpace
from shrinkml_env.space.sensitivity import require_factorisation

__all__ = ["SearchProblem", "Trial"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One unique evaluation of a run, with its reward.

    Attributes:
        evaluation: The evaluation, with its complete ranks.
        reward: A finite float, or a float32 array if the problem's reward is a vector.
        terms: Named parts of the reward.
        feasible: Whether the constraint is met.
    """

    evaluation: Evaluation
    reward: Any
    terms: Mapping[str, float]
    feasible: bool

    @property
    def ranks(self) -> dict[str, int]:
        """Layer name -> canonical rank, complete, in forward order."""
        return dict(self.evaluation.ranks)


class SearchProblem:
    """A search space, an evaluator, a reward and a constraint, with a ledger that counts the evaluations.

    Attributes:
        evaluator: Measures configurations. Searchers call `evaluate` instead, which counts the evaluation.
        search_space: The layers to decide and their candidates.
        reward_function: A callable of (evaluation, baseline).
        constraint: Decides which configurations are feasible, and keeps the decisions of an episode feasible.
        ledger: The record of this run's unique evaluations.
    """

    def __init__(
        self,
        evaluator: SupportsEvaluate,
        search_space: SearchSpace,
        reward: RewardFunction,
        constraint: Constraint | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Make a problem and measure the baseline, which does not count towards the budget.

        Args:
            evaluator: Measures configurations.
            search_space: Its layers must be among the evaluator's.
            reward: Any callable of (evaluation, baseline).
            constraint: Made with the same evaluator and search space; by default every configuration is feasible.
            ledger: By default one without a file or a budget.

        Raises:
            ValueError: The search space has layers that the evaluator lacks, or was made from a sensitivity measured
                with another factorisation; the constraint was made for another search space; the reward needs the
                divergence, which the evaluator does not measure; or the ledger's file belongs to another run.
        """
        known = set(evaluator.layers)
        for layer in search_space.layers:
            if layer not in known:
                raise ValueError(
                    f"search space: layer {layer.name!r} is not one of the evaluator's; make both from the same model "
                    "and granularity"
                )
        require_factorisation(search_space.factorisation, evaluator.factorisation_name)
        constraint = constraint or Unconstrained(evaluator, search_space)
        if constraint.search_space != search_space:
            raise ValueError("the constraint was made of another search space: make both of the same one")
        if getattr(reward, "space", None) is not None and not hasattr(reward, "terms"):
            raise ValueError(f"the vector reward {reward!r} needs a method `terms` that names its parts")
        if not callable(reward):
            raise ValueError(f"the reward must be a name, a mapping with a name, or a callable, got {reward!r}")
        if signal_of(reward) == "divergence" and evaluator.baseline.divergence is None:
            raise ValueError(
                f"the reward {reward!r} needs the divergence from the original, which this evaluator does not measure: "
                "give Evaluator(..., divergence=True), a table that holds divergences, or another reward"
            )
        self.evaluator = evaluator
        self.search_space = search_space
        self.reward_function = reward
        self.constraint = constraint
        self.ledger = Ledger() if ledger is None else ledger
        self.ledger.attach(evaluator)
        self._trials: list[Trial] = []
        # For each layer: candidate -> number of parameters that it saves.
        params = search_space.tabulate(lambda layer, rank: layer.parameters(rank))
        self._saved = [{rank: max(kept.values()) - count for rank, count in kept.items()} for kept in params]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers to decide, in forward order."""
        return self.search_space.layers

    @property
    def candidates(self) -> tuple[tuple[int, ...], ...]:
        """For each layer its ranks, ascending; the last is dense."""
        return self.search_space.candidates

    @property
    def baseline(self) -> Evaluation:
        """The evaluation of the original model."""
        return self.evaluator.baseline

    @property
    def size_limit(self) -> float | None:
        """The largest size ratio that the constraint allows; None where it does not limit the size."""
        return self.constraint.size_limit

    @property
    def signal(self) -> Signal:
        """The quality signal of the reward, ``"wer"`` or ``"divergence"``: a name of an attribute of `Evaluation`."""
        return signal_of(self.reward_function)

    def error(self, evaluation: Evaluation) -> float:
        """Return the quality signal of the reward, lower being better: the WER, or the divergence in nats a unit."""
        if self.signal == "wer":
            return evaluation.wer
        assert evaluation.divergence is not None
        return evaluation.divergence

    def size(self, ranks: Mapping[str, int]) -> float:
        """Return the size ratio of a configuration, in (0, 1]; it costs no evaluation.

        Args:
            ranks: Layer name -> rank; layers without an entry are dense.
        """
        return self.evaluator.size_ratio(ranks)

    def params_after(self, ranks: tuple[int, ...]) -> int:
        """Return the number of parameters with some ranks of the first layers, and all other layers dense.

        It equals `evaluator.params`, and is quick enough for every step of an environment.

        Args:
            ranks: Candidates of the first layers, in forward order.
        """
        return self.baseline.params - sum(saved[rank] for saved, rank in zip(self._saved, ranks, strict=False))

    def evaluate(self, ranks: Mapping[str, int]) -> Evaluation:
        """Measure a configuration; the ledger counts it if it is new.

        Args:
            ranks: Layer name -> rank; layers without an entry are dense.

        Raises:
            BudgetExhausted: The configuration is new and the ledger's budget is spent.
            ValueError: A layer is unknown or a rank is out of range.
        """
        return self.ledger.evaluate(self.evaluator, ranks)

    def close(self) -> None:
        """Stop the evaluator's workers and release the ledger's file; both start again at the next use."""
        self.evaluator.close()
        self.ledger.close()

    def prefetch(self, configurations: Sequence[Mapping[str, int]]) -> None:
        """Measure configurations that will be requested next, in parallel where the evaluator can.

        They are counted when `evaluate` requests them. Those that would exceed the budget are not measured.
        """
        self.ledger.prefetch(self.evaluator, configurations)

    def reward(self, evaluation: Evaluation, baseline: Evaluation | None = None) -> tuple[Any, dict[str, float]]:
        """Return the reward of an evaluation and the reward's named terms.

        Args:
            evaluation: The evaluation of a configuration.
            baseline: The original's evaluation on the same utterances; by default on those of the search.

        Returns:
            The reward, a float, or a float32 array if the reward function has a `space`; and term -> value, with the
            single term ``reward`` if the reward function has no `terms`.

        Raises:
            ValueError: The reward is not a number, or not finite.
        """
        baseline = baseline or self.baseline
        value = self._reward(evaluation, baseline)
        terms = getattr(self.reward_function, "terms", None)
        named = {"reward": value} if terms is None else terms(evaluation, baseline)
        return value, {name: float(term) for name, term in named.items()}

    def rewards(self, evaluations: Iterable[Evaluation]) -> list[Any]:
        """Return the rewards of evaluations without their terms, as `reward` does one by one."""
        baseline = self.baseline
        return [self._reward(evaluation, baseline) for evaluation in evaluations]

    def _reward(self, evaluation: Evaluation, baseline: Evaluation) -> Any:
        value = self.reward_function(evaluation, baseline)
        scalar = self.reward_space is None
        if scalar and not is_number(value):
            raise ValueError(f"the reward {self.reward_function!r} must give a number, it gave {value!r}")
        if not (math.isfinite(value) if scalar else np.all(np.isfinite(value))):
            raise ValueError(f"the reward {self.reward_function!r} gave {value} at a WER of {evaluation.wer:.4f}")
        return float(value) if scalar else value

    @property
    def reward_space(self) -> spaces.Box | None:
        """The space of a vector reward; None for a scalar one."""
        return getattr(self.reward_function, "space", None)

    def require_scalar_reward(self, user: str, remedy: str = "choose another one") -> None:
        """Raise an error if the reward is a vector.

        Args:
            user: The subject of the error message, in the singular: what needs a scalar reward.
            remedy: The advice at the end of the message.

        Raises:
            ValueError: The reward is a vector.
        """
        if self.reward_space is not None:
            raise ValueError(f"{user} needs a scalar reward, not {type(self.reward_function).__name__}: {remedy}")

    def is_feasible(self, ranks: Mapping[str, int]) -> bool:
        """Return whether a configuration meets the constraint; it costs no evaluation.

        Args:
            ranks: Layer name -> rank, for any of the evaluator's layers and any ranks, candidates or not; layers
                without an entry are dense.

        Raises:
            ValueError: A layer is unknown or a rank is out of range.
        """
        return self.constraint.feasible(canonical_ranks(self.evaluator.layers, ranks))

    @property
    def history(self) -> tuple[Trial, ...]:
        """The run's unique evaluations with their rewards, in the order of the first request."""
        for evaluation in self.ledger.evaluations[len(self._trials) :]:
            feasible = self.is_feasible(evaluation.ranks)
            self._trials.append(Trial(evaluation, *self.reward(evaluation), feasible))
        return tuple(self._trials)

    @property
    def ranking(self) -> tuple[Trial, ...]:
        """`history`, best first: feasible before infeasible, then by reward, then the earlier one.

        Raises:
            ValueError: The reward is a vector, and vectors have no order.
        """
        self.require_scalar_reward("a best configuration", "read `history`, or scalarise the reward")
        return tuple(sorted(self.history, key=lambda trial: (not trial.feasible, -trial.reward)))

    @property
    def best(self) -> Trial | None:
        """The first of the `ranking`; None before the first evaluation."""
        return next(iter(self.ranking), None)
