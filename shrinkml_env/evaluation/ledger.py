"""The ledger: a search's record of its unique evaluations, and their budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shrinkml_env.checks import whole_number
from shrinkml_env.compression.layers import canonical_ranks
from shrinkml_env.evaluation.ledger_file import DIFFERENT_SUBJECT, LedgerFile
from shrinkml_env.evaluation.protocol import SupportsEvaluate
from shrinkml_env.evaluation.result import Evaluation

__all__ = ["BudgetExhausted", "Ledger", "Observer"]

Observer = Callable[[Evaluation, int], None]
"""A callback of (new evaluation, number of unique evaluations with it)."""


class BudgetExhausted(RuntimeError):  # noqa: N818 - the end of a budget is no error of the program
    """A search requested a new configuration after its budget of unique evaluations was spent."""


class Ledger:
    """A ledger records the unique evaluations of one run, in the order in which they were first requested.

    The first request for a configuration costs 1, even where the persistent cache holds its measurement; repeated
    requests are free. Ranks are made canonical first, so that equal configurations have equal ranks.

    With a path, every evaluation is appended to that file before it is returned, so that a run killed at any moment
    loses nothing. To resume, start the run again with its seed and the same file: evaluations in the file are not
    measured again, and each is counted when the run requests it again. A resumed run therefore ends exactly as an
    uninterrupted one, and the file holds each evaluation once.

    From `attach` to `close` the ledger holds a lock on its file, ``PATH.lock``, so that no two ledgers write one file,
    in one process or in several; the lock ends with the process at the latest. Copies and pickles carry neither the
    lock nor the observers.

    The budget belongs to the ledger: environments that are given the same ledger share it, as those of
    ``gym.make_vec("ShrinkML-v0", ledger=...)`` do. Environments that make a ledger each, as in Gymnasium's own vector
    environments, have a budget each, and need a file each.

    Args:
        path: The file (see `ledger_file`), or None to keep the record in memory only. Nothing is read or written before
            `attach`.
        budget: The number of unique evaluations allowed, at least 0, or None for no limit.

    Raises:
        ValueError: The budget is not a whole number of at least 0, or the path is not the name of a file.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, budget: int | None = None) -> None:
        self.budget = None if budget is None else whole_number("ledger: budget", budget, least=0)
        if path is not None and not isinstance(path, str | os.PathLike):
            raise ValueError(f"ledger: path must be the name of a file, got {path!r}")
        self._file = None if path is None else LedgerFile(path)
        self._subject: tuple[str, Evaluation] | None = None  # the evaluator's key and baseline, once they are known
        self._stored: dict[tuple[int, ...], Evaluation] = {}
        self._requested: dict[tuple[int, ...], Evaluation] = {}
        self._observers: list[Observer] = []

    @property
    def path(self) -> Path | None:
        """The file, or None where the record is kept in memory only."""
        return None if self._file is None else self._file.path

    @property
    def count(self) -> int:
        """The number of unique evaluations that this run has requested so far."""
        return len(self._requested)

    @property
    def remaining(self) -> int | None:
        """The number of evaluations left in the budget; None if there is no limit."""
        return None if self.budget is None else self.budget - self.count

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self.budget is not None and self.count >= self.budget

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The unique evaluations that this run has requested, in the order of the first request."""
        return tuple(self._requested.values())

    def subscribe(self, observer: Observer) -> None:
        """Call an observer after each new unique evaluation, whether it was measured or read from the file.

        By then the evaluation is counted and is in the file: an exception of the observer reaches the caller of
        `evaluate`, and no measurement is lost. Observers are called in the order of their subscription.

        Args:
            observer: Called with the evaluation and the number of unique evaluations so far, this one included.

        Raises:
            TypeError: The observer is not callable.
        """
        if not callable(observer):
            raise TypeError(f"an observer is called with (evaluation, count), which {observer!r} cannot be")
        self._observers.append(observer)

    def unsubscribe(self, observer: Observer) -> None:
        """Stop calling an observer.

        Raises:
            ValueError: It is not an observer of this ledger.
        """
        self._observers.remove(observer)

    def keep_in(self, path: str | os.PathLike[str]) -> None:
        """Give a file to a ledger that has none, as if the ledger had been made with it.

        The evaluations that the file holds are not measured again; those measured so far are appended to it.

        Args:
            path: The file; if it is the ledger's already, the call has no effect.

        Raises:
            ValueError: The ledger has another file, or the file cannot be used (see `attach`). The ledger is unchanged.
        """
        if self.path is not None:
            if self.path.resolve() != Path(path).resolve():
                raise ValueError(
                    f"this ledger is kept in {self.path} already and cannot be kept in {path} too: leave out the "
                    "ledger's path or the directory"
                )
            return
        file = LedgerFile(path)
        if self._subject is not None:
            self._open(file, *self._subject)
        self._file = file

    def attach(self, evaluator: SupportsEvaluate) -> None:
        """Bind the ledger to an evaluator (by `SupportsEvaluate.key`), and read the file if there is one.

        Raises:
            ValueError: The file is damaged, is not a ledger, or belongs to another evaluator; another ledger is writing
                it; or this ledger is bound to another evaluator.
        """
        if self._subject is not None and self._subject[0] != evaluator.key:
            raise ValueError(f"this ledger already records {DIFFERENT_SUBJECT}; give each run its own")
        subject = self._subject or (evaluator.key, evaluator.baseline)
        if self._file is not None and not self._file.is_open:
            self._open(self._file, *subject)
        self._subject = subject

    def close(self) -> None:
        """Release the file's lock. The record stays in memory; the next use takes the lock again."""
        if self._file is not None:
            self._file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_observers": []}

    def evaluate(self, evaluator: SupportsEvaluate, ranks: Mapping[str, int]) -> Evaluation:
        """Return the evaluation of a configuration, and count it if it is new.

        Args:
            evaluator: Measures configurations that the record does not hold.
            ranks: Layer name -> rank; layers without an entry are dense.

        Raises:
            BudgetExhausted: The configuration is new and the budget is spent. The ledger is unchanged.
            ValueError: A layer is unknown, a rank is out of range, or the file cannot be used.
        """
        self.attach(evaluator)
        complete = canonical_ranks(evaluator.layers, ranks)
        key = tuple(complete.values())
        if key in self._requested:
            return self._requested[key]
        if self.spent:
            raise BudgetExhausted(f"the budget of {self.budget} unique evaluations is spent")
        if key not in self._stored:
            self._store(evaluator.evaluate(complete))
        evaluation = self._requested[key] = self._stored[key]
        count = self.count
        for observer in tuple(self._observers):
            observer(evaluation, count)
        return evaluation

    def prefetch(self, evaluator: SupportsEvaluate, configurations: Sequence[Mapping[str, int]]) -> None:
        """Measure configurations ahead of their requests, many at once; `evaluate` counts them when they are requested.

        Configurations that would exceed the budget are not measured.
        """
        self.attach(evaluator)
        complete = [canonical_ranks(evaluator.layers, ranks) for ranks in configurations]
        unique = {tuple(ranks.values()): ranks for ranks in complete}
        new = [key for key in unique if key not in self._requested][: self.remaining]
        for evaluation in evaluator.evaluate_many([unique[key] for key in new if key not in self._stored]):
            self._store(evaluation)

    def _store(self, evaluation: Evaluation) -> None:
        if self._file is not None:
            self._file.append([evaluation])
        self._stored[_key(evaluation)] = evaluation

    def _open(self, file: LedgerFile, key: str, baseline: Evaluation) -> None:
        """Lock a file, add its evaluations to the record, and append the evaluations that it lacks."""
        recorded = {_key(evaluation): evaluation for evaluation in file.open(key, baseline)}
        try:
            file.append([evaluation for ranks, evaluation in self._stored.items() if ranks not in recorded])
        except BaseException:
            file.close()
            raise
        self._stored = recorded | self._stored


def _key(evaluation: Evaluation) -> tuple[int, ...]:
    return tuple(evaluation.ranks.values())
