"""The record of what a search has measured, and its budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shrinkml_env.checks import whole_number
from shrinkml_env.compression.layers import canonical_ranks
from shrinkml_env.evaluation.ledger_file import ANOTHER, LedgerFile
from shrinkml_env.evaluation.protocol import SupportsEvaluate
from shrinkml_env.evaluation.result import Evaluation

__all__ = ["BudgetExhausted", "Ledger", "Observer"]

Observer = Callable[[Evaluation, int], None]
"""It is told of a new evaluation, and how many there are with it."""


class BudgetExhausted(RuntimeError):  # noqa: N818 - the end of a budget is no error of the program
    """A search asked for one new configuration more than its budget of unique evaluations allows."""


class Ledger:
    """A ledger records the unique evaluations of one run, in the order in which they were first asked for.

    The first request for a configuration costs 1, whatever a persistent cache knows of it; repeating it is free. Ranks
    are made canonical first, so that a configuration has one spelling.

    With a path, every evaluation is appended to that file before it is returned, so that a run killed at any moment
    loses nothing. To resume, start the run anew from its seed on the same file: what the file holds is answered from
    it, and is counted when the run asks for it again. A resumed run therefore ends exactly as an uninterrupted one, and
    the file holds nothing twice.

    From `attach` to `close` the ledger holds a lock on its file, ``PATH.lock``, so that no two ledgers write one file,
    in one process or in several; the lock ends with the process at the latest. Copies and pickles carry neither the
    lock nor the observers.

    A budget is the ledger's: environments that are given one ledger share its budget, as those of
    ``gym.make_vec("ShrinkML-v0", ledger=...)`` do. Environments that make a ledger each, as in Gymnasium's own vector
    environments, have a budget each, and need a file each.

    Args:
        path: The file (see `ledger_file`), or None to keep the record in memory only. Nothing is read or written before
            `attach`.
        budget: The number of unique evaluations allowed, or None for any number.

    Raises:
        ValueError: The budget is no whole number of at least 0, or the path none.
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
        """The number of unique evaluations that this run has asked for so far."""
        return len(self._requested)

    @property
    def remaining(self) -> int | None:
        """The evaluations that are left of the budget; None if there is no limit."""
        return None if self.budget is None else self.budget - self.count

    @property
    def spent(self) -> bool:
        """Whether nothing is left of the budget."""
        return self.budget is not None and self.count >= self.budget

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations that this run has asked for, in order."""
        return tuple(self._requested.values())

    def subscribe(self, observer: Observer) -> None:
        """Call an observer after each new unique evaluation that the run asks for, wherever the answer comes from.

        The evaluation is counted and in the file by then: what an observer raises reaches the caller of `evaluate`, and
        nothing is lost. Observers are called in the order of their subscription.

        Args:
            observer: Called with the evaluation and the number of unique evaluations so far, this one included.

        Raises:
            TypeError: It cannot be called.
        """
        if not callable(observer):
            raise TypeError(f"an observer is called with (evaluation, count), which {observer!r} cannot be")
        self._observers.append(observer)

    def unsubscribe(self, observer: Observer) -> None:
        """Call an observer no more.

        Raises:
            ValueError: It is no observer of this ledger.
        """
        self._observers.remove(observer)

    def keep_in(self, path: str | os.PathLike[str]) -> None:
        """Keep the record of a ledger without a file in this one from now on, as if it had been given at first.

        What the file holds already is answered from it from now on; what was measured so far is written to it.

        Args:
            path: The file; nothing happens if it is the ledger's already.

        Raises:
            ValueError: The ledger has another file; or the file cannot be used (see `attach`). Nothing has changed.
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
        """Tie the ledger to what is measured and how (see `SupportsEvaluate.key`), and read the file if there is one.

        Raises:
            ValueError: The file is damaged, is no ledger, or records something else; another ledger writes it; or this
                ledger records something else.
        """
        if self._subject is not None and self._subject[0] != evaluator.key:
            raise ValueError(f"this ledger already records {ANOTHER}; give each run its own")
        subject = self._subject or (evaluator.key, evaluator.baseline)
        if self._file is not None and not self._file.is_open:
            self._open(self._file, *subject)
        self._subject = subject

    def close(self) -> None:
        """Let others write the file. What is known stays; the next use takes the file again, if it is free."""
        if self._file is not None:
            self._file.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_observers": []}

    def evaluate(self, evaluator: SupportsEvaluate, ranks: Mapping[str, int]) -> Evaluation:
        """Measure a configuration, or repeat what is known of it.

        Args:
            evaluator: Measures what is not known yet.
            ranks: Layer name -> rank; what it leaves out is dense.

        Raises:
            BudgetExhausted: The configuration is new and the budget is spent. Nothing has changed.
            ValueError: A layer or rank is unknown, or the file cannot be used.
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
        """Measure configurations that `evaluate` will be asked for next, all at once; it counts them then.

        What the budget would not allow is left out.
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
        """Take a file, take up what it holds, and write to it what it lacks."""
        recorded = {_key(evaluation): evaluation for evaluation in file.open(key, baseline)}
        try:
            file.append([evaluation for ranks, evaluation in self._stored.items() if ranks not in recorded])
        except BaseException:
            file.close()
            raise
        self._stored = recorded | self._stored


def _key(evaluation: Evaluation) -> tuple[int, ...]:
    return tuple(evaluation.ranks.values())
