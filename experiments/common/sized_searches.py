"""Rules and searches that are asked for a configuration of a size, and what dev chooses among what they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from omegaconf import DictConfig

from experiments.common.environment import make_environment
from experiments.common.findings import Errors
from experiments.common.results import Cell
from experiments.common.rules import every_rank, ranks_of_rules, ranks_of_size
from experiments.common.searches import Search, evaluator_on, explored_in, search_cell
from shrinkml_env import Evaluator, Ledger, SearchProblem
from shrinkml_env.envs.wrapped import search_problem
from shrinkml_env.search import choose

__all__ = [
    "Chosen",
    "SizedRule",
    "SizedSearch",
    "choose_ranks",
    "found_by_rule",
    "found_by_search",
    "rule_cell",
    "search_of_rule",
    "sized_cell",
]


@dataclass(frozen=True, slots=True)
class SizedSearch:
    """A search that keeps to a size.

    Attributes:
        name: Its name in tables.
        search: The search.
        finalists: How many of its configurations are measured on dev.
    """

    name: str
    search: Search
    finalists: int


@dataclass(frozen=True, slots=True)
class SizedRule:
    """A rule that is asked for the ranks of a size.

    Attributes:
        name: Its name in tables.
        search: With the rule as its agent.
        size: The largest share of the parameters.
    """

    name: str
    search: Search
    size: float


@dataclass(frozen=True, slots=True)
class Chosen:
    """A configuration that dev chose among a search's, or a rule's.

    Attributes:
        agent: The name of the rule or the search in tables.
        size: The size ratio that it had to keep.
        seed: The agent's.
        ranks: Layer name -> rank.
        size_ratio: At most `size`, unless the agent has found nothing so small.
        evaluations: Unique evaluations on proxy that were used.
        proxy_wer: WER on proxy, a fraction.
        dev_wer: WER on dev, a fraction.
        edits: Word errors of each test utterance.
        edits_before: Word errors of each test utterance by the original.
        words: Reference words of each test utterance.
        passes: Utterances of the proxy set times evaluations: utterance passes; 0 where it was not recorded.
        returns: The undiscounted return of each episode, in order; none where it was not recorded.
    """

    agent: str
    size: float
    seed: int
    ranks: Mapping[str, int]
    size_ratio: float
    evaluations: int
    proxy_wer: float
    dev_wer: float
    edits: Sequence[int]
    edits_before: Sequence[int]
    words: Sequence[int]
    passes: int = 0
    returns: Sequence[float] = ()

    @property
    def on_test(self) -> Errors:
        """The errors on test."""
        return Errors(self.edits, self.words)

    @property
    def before(self) -> Errors:
        """The original's errors on test."""
        return Errors(self.edits_before, self.words)


class Found(NamedTuple):
    """The configuration of a size that a rule gives, or that dev chose among a search's.

    Attributes:
        problem: The search problem, after the search.
        ranks: Layer name -> rank.
        returns: The undiscounted return of each episode, in order; none of a rule.
    """

    problem: SearchProblem
    ranks: Mapping[str, int]
    returns: Sequence[float]


def found_by_rule(config: DictConfig, size: float) -> Found:
    """Return what a rule gives, by a config of `experiments.search` with the rule as its agent."""
    evaluator = search_problem(make_environment(config, Ledger())).evaluator
    assert isinstance(evaluator, Evaluator)
    problem = every_rank(evaluator)
    return Found(problem, ranks_of_size(problem, config.agent, size), ())


def found_by_search(config: DictConfig, finalists: int, and_rules: bool = False) -> Found:
    """Return what dev chooses among a search's best configurations.

    Args:
        config: A config of `experiments.search`.
        finalists: Number of configurations of the search that are measured on dev.
        and_rules: Whether the rules that the agent begins with give finalists besides, as in `experiments.compress`;
            see `ranks_of_rules`.
    """
    problem, returns = explored_in(make_environment(config, Ledger(budget=config.budget)), config.agent)
    rules = ranks_of_rules(problem, config.agent) if and_rules else []
    dev = evaluator_on(problem, config, "dev")
    return Found(problem, choose(problem, dev, finalists, rules, progress_bar=False).ranks, returns)


def choose_ranks(task: SizedSearch | SizedRule) -> dict[str, Any]:
    """Return a `Chosen`, as JSON."""
    config = task.search.config
    if isinstance(task, SizedRule):
        name, size = task.name, task.size
        problem, ranks, returns = found_by_rule(config, size)
    else:
        name, size = task.name, float(config.constraint.budget)
        problem, ranks, returns = found_by_search(config, task.finalists)
    dev, test = (evaluator_on(problem, config, part) for part in ("dev", "test"))
    on_test = test.evaluate(ranks)
    found = Chosen(
        agent=name,
        size=size,
        seed=task.search.seed,
        ranks=dict(ranks),
        size_ratio=on_test.size_ratio,
        evaluations=problem.ledger.count,
        proxy_wer=problem.evaluator.evaluate(ranks).wer,
        dev_wer=dev.evaluate(ranks).wer,
        edits=on_test.edits,
        edits_before=test.baseline.edits,
        words=on_test.words,
        passes=problem.ledger.count * problem.evaluator.num_utterances,
        returns=returns,
    )
    return asdict(found)


def search_of_rule(rule: str, overrides: Sequence[str]) -> Search:
    """Return the search whose agent is a rule: its config has all that the rule depends on but the size."""
    return Search("live", rule, "accuracy", 0, 1, tuple(overrides))


def rule_cell(name: str, search: Search, size: float) -> Cell[SizedRule]:
    """Return the cell of a rule at a size, under the name that tables give it."""
    return search_cell(search, SizedRule(name, search, size), size=size)


def sized_cell(name: str, search: Search, finalists: int) -> Cell[SizedSearch]:
    """Return the cell of a search whose constraint is a size."""
    return search_cell(search, SizedSearch(name, search, finalists), name=name, finalists=finalists)
