"""The record of what a search has measured, and its budget."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from filelock import FileLock, Timeout
from torch import Tensor

from shrinkml_env.compression.layers import Layer, canonical_ranks
from shrinkml_env.evaluation.result import Evaluation

__all__ = ["BudgetExhausted", "Ledger", "SupportsEvaluate", "read_ledger"]

_FORMAT = "shrinkml-ledger-2"

_ANOTHER = "another model, utterance set, granularity, factorisation, decoder setting or version of torch"


class BudgetExhausted(RuntimeError):  # noqa: N818 - the end of a budget is no error of the program
    """A search asked for one new configuration more than its budget of unique evaluations allows."""


class SupportsEvaluate(Protocol):
    """What searches need of an `Evaluator`; ranks may be partial, and what they leave out is dense."""

    @property
    def key(self) -> str:
        """Hash of all that a measurement depends on but the ranks; equal keys mean equal measurements."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The model's layers at the chosen granularity, in forward order."""

    @property
    def factorisation_name(self) -> str:
        """How matrices are factored: `Factorisation.name`."""

    @property
    def baseline(self) -> Evaluation:
        """The original model, all layers dense."""

    @property
    def singular_values(self) -> Mapping[str, Tensor]:
        """Matrix name -> its singular values, descending."""

    def evaluate(self, ranks: Mapping[str, int]) -> Evaluation:
        """Measure one configuration; ValueError for an unknown layer or rank."""

    def evaluate_many(self, configurations: Sequence[Mapping[str, int]]) -> Iterable[Evaluation]:
        """Measure several, in their order."""

    def params(self, ranks: Mapping[str, int]) -> int:
        """Parameters of the compressed model."""

    def size_ratio(self, ranks: Mapping[str, int]) -> float:
        """`params` over the original's."""

    def macs(self, ranks: Mapping[str, int]) -> int:
        """Multiply-adds over the whole utterance set."""

    def activation_error(self, ranks: Mapping[str, int]) -> float:
        """Relative error of the activations behind the last layer named, at least 0; see `ActivationError`."""

    def close(self) -> None:
        """End what was started to measure; it starts again when it is needed."""


class Ledger:
    """The unique evaluations of one run, in the order in which they were first asked for.

    The first request for a configuration costs 1, whatever a persistent cache knows of it; repeating it is free. Ranks
    are made canonical first, so that a configuration has one spelling.

    With a path, every evaluation is appended to that file before it is returned, so that a run killed at any moment
    loses nothing. To resume, start the run anew from its seed on the same file: what the file holds is answered from
    it, and is counted when the run asks for it again. A resumed run therefore ends exactly as an uninterrupted one, and
    the file holds nothing twice.

    From `attach` to `close` the ledger holds a lock on its file, ``PATH.lock``, so that no two ledgers write one file,
    in one process or in several; the lock ends with the process at the latest. Copies and pickles do not carry it.

    A budget is the ledger's: environments that are given one ledger share its budget, as those of
    ``gym.make_vec("ShrinkML-v0", ledger=...)`` do. Environments that make a ledger each, as in Gymnasium's own vector
    environments, have a budget each, and need a file each.

    Attributes:
        path: The file (JSON lines: a header, then one evaluation a line), or None to keep the record in memory only.
        budget: The number of unique evaluations allowed, or None for any number.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, budget: int | None = None) -> None:
        """Nothing is read or written before `attach`.

        Raises:
            ValueError: The budget is negative.
        """
        if budget is not None and budget < 0:
            raise ValueError(f"the budget of evaluations must be at least 0 or None, got {budget}")
        self.path = None if path is None else Path(path)
        self.budget = budget
        self._lock: FileLock | None = None
        self._header: dict[str, Any] = {}  # says what is measured and how, once that is known
        self._stored: dict[tuple[int, ...], Evaluation] = {}
        self._requested: dict[tuple[int, ...], Evaluation] = {}

    @property
    def count(self) -> int:
        """Unique evaluations that this run has asked for so far."""
        return len(self._requested)

    @property
    def remaining(self) -> int | None:
        """What is left of the budget; None if there is no limit."""
        return None if self.budget is None else self.budget - self.count

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """What this run has asked for, in order."""
        return tuple(self._requested.values())

    def attach(self, evaluator: SupportsEvaluate) -> None:
        """Tie the ledger to what is measured and how (see `SupportsEvaluate.key`), and read the file if there is one.

        Raises:
            ValueError: The file is damaged, is no ledger, or records something else; another ledger writes it; or this
                ledger records something else.
        """
        if self._header and self._header["key"] != evaluator.key:
            raise ValueError(f"this ledger already records {_ANOTHER}; give each run its own")
        if self.path is None or (self._lock is not None and self._lock.is_locked):
            self._header = self._header or _header(evaluator)
            return
        header = _header(evaluator)
        lock = _locked(self.path)
        try:
            if self.path.exists():
                self._stored = {_ranks(evaluation): evaluation for evaluation in _read(self.path, header)}
        except BaseException:
            lock.release()
            raise
        self._lock, self._header = lock, header

    def close(self) -> None:
        """Let others write the file. What is known stays; the next use takes the file again, if it is free."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": None}

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
        if self.budget is not None and self.count >= self.budget:
            raise BudgetExhausted(f"the budget of {self.budget} unique evaluations is spent")
        if key not in self._stored:
            evaluation = evaluator.evaluate(complete)
            self._append(evaluation)
            self._stored[key] = evaluation
        self._requested[key] = self._stored[key]
        return self._requested[key]

    def prefetch(self, evaluator: SupportsEvaluate, configurations: Sequence[Mapping[str, int]]) -> None:
        """Measure configurations that `evaluate` will be asked for next, all at once; it counts them then.

        What the budget would not allow is left out.
        """
        self.attach(evaluator)
        complete = [canonical_ranks(evaluator.layers, ranks) for ranks in configurations]
        unique = {tuple(ranks.values()): ranks for ranks in complete}
        new = [key for key in unique if key not in self._requested][: self.remaining]
        for evaluation in evaluator.evaluate_many([unique[key] for key in new if key not in self._stored]):
            self._append(evaluation)
            self._stored[_ranks(evaluation)] = evaluation

    def _append(self, evaluation: Evaluation) -> None:
        if self.path is None:
            return
        with open(self.path, "a+b") as file:
            whole = _whole_lines(file)
            if whole < file.seek(0, os.SEEK_END):
                file.truncate(whole)  # what follows the last newline was torn by a kill
            records = [_to_json(evaluation)] if whole else [self._header, _to_json(evaluation)]
            file.write("".join(json.dumps(record) + "\n" for record in records).encode())
            file.flush()
            os.fsync(file.fileno())


def read_ledger(path: str | os.PathLike[str]) -> tuple[Evaluation, tuple[Evaluation, ...]]:
    """Read a ledger's file: the baseline, and every evaluation in the order of measurement.

    A last line that a kill has torn is left out. The file is not changed, so a running search's may be read.

    Raises:
        ValueError: The file is damaged or is no ledger.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    first, _, _ = path.read_bytes().partition(b"\n")
    try:
        header = json.loads(first)
        if header["format"] != _FORMAT:
            raise ValueError(f"the format is {header['format']!r}, not {_FORMAT!r}")
        baseline = _from_json(header["baseline"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a ledger of evaluations: {error}") from error
    return baseline, _read(path, header)


def _read(path: Path, header: dict[str, Any]) -> tuple[Evaluation, ...]:
    """The evaluations in a file that must begin with this header."""
    content = path.read_bytes()
    lines = content.split(b"\n")
    torn = lines.pop()  # empty where the last line is whole
    if not lines:
        if json.dumps(header).encode().startswith(torn):
            return ()  # killed while the header was written
        raise ValueError(f"{path} is not a ledger of evaluations; give another path")
    try:
        found = json.loads(lines[0])
    except ValueError as error:
        raise ValueError(f"{path} is not a ledger of evaluations; give another path") from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a ledger of evaluations ({_FORMAT}); give another path")
    if found != header:
        raise ValueError(f"{path} records {_ANOTHER}; give another path, or remove the file")
    baseline = _from_json(header["baseline"])
    evaluations = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            evaluation = _from_json(json.loads(line))
            if list(evaluation.ranks) != list(baseline.ranks) or evaluation.words != baseline.words:
                raise ValueError("its layers or reference words are not the header's")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is damaged ({error!r}); repair or remove the file") from error
        evaluations.append(evaluation)
    return tuple(evaluations)


def _locked(path: Path) -> FileLock:
    """Held from now on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(path.name + ".lock"), is_singleton=False, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"{path}: another run is writing it, or another environment of this process; wait for its end or close it, "
            "share one ledger, or give another path"
        ) from error
    return lock


def _whole_lines(file: BinaryIO) -> int:
    """The number of bytes up to and including the last newline."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read() in (b"\n", b""):
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def _ranks(evaluation: Evaluation) -> tuple[int, ...]:
    return tuple(evaluation.ranks.values())


def _header(evaluator: SupportsEvaluate) -> dict[str, Any]:
    return {"format": _FORMAT, "key": evaluator.key, "baseline": _to_json(evaluator.baseline)}


def _to_json(evaluation: Evaluation) -> dict[str, Any]:
    record = {
        "ranks": dict(evaluation.ranks),
        "edits": list(evaluation.edits),
        "words": list(evaluation.words),
        "params": evaluation.params,
        "size_ratio": evaluation.size_ratio,
        "macs": evaluation.macs,
        "capped": evaluation.capped,
    }
    return record if evaluation.divergence is None else {**record, "divergence": evaluation.divergence}


def _from_json(record: Mapping[str, Any]) -> Evaluation:
    return Evaluation(
        ranks={str(name): int(rank) for name, rank in record["ranks"].items()},
        edits=tuple(int(edits) for edits in record["edits"]),
        words=tuple(int(words) for words in record["words"]),
        params=int(record["params"]),
        size_ratio=float(record["size_ratio"]),
        macs=int(record["macs"]),
        capped=int(record["capped"]),
        divergence=float(record["divergence"]) if "divergence" in record else None,
    )
