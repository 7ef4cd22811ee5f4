"""The search problem below the environment, on which black-box searchers work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from shrinkml_env.mdp.rewards import RewardFunction, signal_of
from shrinkml_env.space.search_space import SearchSpace
from shrinkml_env.space.sensitivity import require_factorisation

__all__ = ["SearchProblem", "Trial"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One unique evaluation of a run and what it is worth.

    Attributes:
        evaluation: The measurement, with its complete ranks.
        reward: Finite; an array if the problem's reward is a vector.
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
    """Layers, candidates, a measurement, a reward and a constraint, all counted by one ledger.

    Attributes:
        evaluator: Measures a configuration. Searchers call `evaluate` instead, which counts.
        search_space: The layers to decide and their candidates.
        reward_function: Called with (evaluation, baseline).
        constraint: Says which configurations are feasible, and keeps an episode's decisions within that.
        ledger: Holds this run's unique evaluations.
    """

    def __init__(
        self,
        evaluator: SupportsEvaluate,
        search_space: SearchSpace,
        reward: RewardFunction,
        constraint: Constraint | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Measures the baseline, which costs nothing of the budget.

        Args:
            evaluator: Says what is measured, and how.
            search_space: Its layers must be among the evaluator's.
            reward: Any callable of (evaluation, baseline).
            constraint: Made of the same evaluator and search space; by default every configuration is feasible.
            ledger: By default one without a file or a budget.

        Raises:
            ValueError: The search space is not of this evaluator's layers, or comes from the sensitivity to another
                factorisation; the constraint is of another search space; the reward needs what is not measured; or the
                ledger's file is of another run.
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
                "give Evaluator(..., divergence=True), or another reward; tables have none"
            )
        self.evaluator = evaluator
        self.search_space = search_space
        self.reward_function = reward
        self.constraint = constraint
        self.ledger = Ledger() if ledger is None else ledger
        self.ledger.attach(evaluator)
        self._trials: list[Trial] = []
        # For each layer: candidate -> parameters that it saves.
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
        """The original model."""
        return self.evaluator.baseline

    @property
    def size_limit(self) -> float | None:
        """The largest size ratio that the constraint allows; None where it does not limit the size."""
        return self.constraint.size_limit

    def error(self, evaluation: Evaluation) -> float:
        """Return what the reward depends on besides size and cost, less being better: the WER, or the divergence."""
        if signal_of(self.reward_function) == "wer":
            return evaluation.wer
        assert evaluation.divergence is not None
        return evaluation.divergence

    def size(self, ranks: Mapping[str, int]) -> float:
        """Return the size ratio of a configuration, in (0, 1]; this costs nothing. What `ranks` leaves out is dense."""
        return self.evaluator.size_ratio(ranks)

    def params_after(self, ranks: tuple[int, ...]) -> int:
        """Count the parameters with these candidates for the first layers, in forward order, and all others dense.

        The same as `evaluator.params`, but quick enough for every step of an environment.
        """
        return self.baseline.params - sum(saved[rank] for saved, rank in zip(self._saved, ranks, strict=False))

    def evaluate(self, ranks: Mapping[str, int]) -> Evaluation:
        """Measure a configuration through the ledger. What `ranks` leaves out is dense.

        Raises:
            BudgetExhausted: The configuration is new and the ledger's budget is spent.
            ValueError: A layer is unknown or a rank out of range.
        """
        return self.ledger.evaluate(self.evaluator, ranks)

    def close(self) -> None:
        """End what the evaluator has started, and let others write the ledger's file; both begin again when used."""
        self.evaluator.close()
        self.ledger.close()

    def prefetch(self, configurations: Sequence[Mapping[str, int]]) -> None:
        """Measure configurations that will be asked for next, side by side where the evaluator can.

        Counts nothing yet, and leaves out what would be over the budget.
        """
        self.ledger.prefetch(self.evaluator, configurations)

    def reward(self, evaluation: Evaluation, baseline: Evaluation | None = None) -> tuple[Any, dict[str, float]]:
        """Return what an evaluation is worth: the reward and its named terms, or one term, ``reward``.

        The reward is a float, or a float32 array if the reward function has a `space`.

        Args:
            evaluation: A measurement of a configuration.
            baseline: That of the original on the same utterances; by default on those of the search.

        Raises:
            ValueError: The reward is no number, or not finite.
        """
        baseline = baseline or self.baseline
        value = self.reward_function(evaluation, baseline)
        if self.reward_space is None and not is_number(value):
            raise ValueError(f"the reward {self.reward_function!r} must give a number, it gave {value!r}")
        if not np.all(np.isfinite(value)):
            raise ValueError(f"the reward {self.reward_function!r} gave {value} at a WER of {evaluation.wer:.4f}")
        terms = getattr(self.reward_function, "terms", None)
        named = {"reward": value} if terms is None else terms(evaluation, baseline)
        if self.reward_space is None:
            value = float(value)
        return value, {name: float(term) for name, term in named.items()}

    @property
    def reward_space(self) -> spaces.Box | None:
        """The space of a vector reward; None for an ordinary one."""
        return getattr(self.reward_function, "space", None)

    def require_scalar_reward(self, user: str, remedy: str = "choose another one") -> None:
        """Refuse a vector reward.

        Args:
            user: The one that needs a scalar reward, in the singular.
            remedy: The advice at the end of the message.

        Raises:
            ValueError: The reward is a vector.
        """
        if self.reward_space is not None:
            raise ValueError(f"{user} needs a scalar reward, not {type(self.reward_function).__name__}: {remedy}")

    def is_feasible(self, ranks: Mapping[str, int]) -> bool:
        """Return whether a configuration meets the constraint; this costs nothing.

        Args:
            ranks: Name of any of the evaluator's layers -> rank, a candidate or not; what it leaves out is dense.

        Raises:
            ValueError: A layer is unknown or a rank out of range.
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
            ValueError: The reward is a vector, which has no order.
        """
        self.require_scalar_reward("a best configuration", "read `history`, or scalarise the reward")
        return tuple(sorted(self.history, key=lambda trial: (not trial.feasible, -trial.reward)))

    @property
    def best(self) -> Trial | None:
        """The first of the `ranking`; None before the first evaluation."""
        return next(iter(self.ranking), None)
