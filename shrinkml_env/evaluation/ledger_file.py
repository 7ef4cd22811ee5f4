"""The file of a ledger: JSON lines. The first is a header with the evaluator's key, every other one an evaluation.

A kill can leave at most the last line incomplete; readers ignore such a line, and the next writer removes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from shrinkml_env.evaluation.result import Evaluation
from shrinkml_env.files import append_lines, parse_json, read_lines

__all__ = ["DIFFERENT_SUBJECT", "LedgerFile", "read_ledger"]

_FORMAT = "shrinkml-ledger-2"

DIFFERENT_SUBJECT = "another model, utterance set, granularity, factorisation, decoder setting or version of torch"
"""The possible differences between two evaluators whose keys differ, for error messages."""


class LedgerFile:
    """A file that only one ledger at a time may write, among all processes.

    From `open` to `close` it holds a lock, ``PATH.lock``, which ends with the process at the latest. Copies and pickles
    do not carry the lock.

    Args:
        path: The file; neither it nor its folder need exist.

    Raises:
        ValueError: The path is a folder, or its parent is a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise ValueError(f"ledger: path must be the name of a file, got the folder {self.path}")
        if self.path.parent.is_file():
            raise ValueError(f"ledger: path {self.path} lies in {self.path.parent}, which is not a folder")
        self._lock: FileLock | None = None
        self._header: dict[str, Any] = {}

    @property
    def is_open(self) -> bool:
        """Whether this object holds the file's lock."""
        return self._lock is not None

    def open(self, key: str, baseline: Evaluation) -> tuple[Evaluation, ...]:
        """Lock the file and read it.

        Args:
            key: The evaluator's `SupportsEvaluate.key`.
            baseline: The evaluation of the original.

        Returns:
            The evaluations in the file, in their order; none if the file does not exist.

        Raises:
            ValueError: The file is damaged, is not a ledger, or belongs to another evaluator; or another ledger is
                writing it.
        """
        header = {"format": _FORMAT, "key": key, "baseline": _to_json(baseline)}
        lock = _locked(self.path)
        try:
            evaluations = _read(self.path, header) if self.path.exists() else ()
        except BaseException:
            lock.release()
            raise
        self._lock, self._header = lock, header
        return evaluations

    def append(self, evaluations: Sequence[Evaluation]) -> None:
        """Append evaluations to the open file; they are on disk when the method returns."""
        assert self.is_open
        if evaluations:
            lines = [json.dumps(_to_json(evaluation)) for evaluation in evaluations]
            append_lines(self.path, lines, header=json.dumps(self._header))

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": None}


def read_ledger(path: str | os.PathLike[str]) -> tuple[Evaluation, tuple[Evaluation, ...]]:
    """Read a ledger's file.

    An incomplete last line is ignored. The file is not changed, so that of a running search may be read.

    Returns:
        The baseline, and the evaluations in the order of measurement.

    Raises:
        ValueError: The file is damaged or is not a ledger.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    first, _, _ = path.read_bytes().partition(b"\n")
    try:
        header = parse_json(first)
        if header["format"] != _FORMAT:
            raise ValueError(f"the format is {header['format']!r}, not {_FORMAT!r}")
        baseline = _from_json(header["baseline"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is not a ledger of evaluations: {error}") from error
    return baseline, _read(path, header)


def _read(path: Path, header: dict[str, Any]) -> tuple[Evaluation, ...]:
    """Return the evaluations in a file whose first line must be this header."""
    lines, torn = read_lines(path)
    if not lines:
        if json.dumps(header).encode().startswith(torn):
            return ()  # killed while the header was written
        raise ValueError(f"{path} is not a ledger of evaluations; give another path")
    try:
        found = parse_json(lines[0])
    except ValueError as error:
        raise ValueError(f"{path} is not a ledger of evaluations; give another path") from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a ledger of evaluations ({_FORMAT}); give another path")
    if found != header:
        raise ValueError(f"{path} records {DIFFERENT_SUBJECT}; give another path, or remove the file")
    baseline = _from_json(header["baseline"])
    evaluations: dict[tuple[int, ...], Evaluation] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            evaluation = _from_json(parse_json(line))
            if list(evaluation.ranks) != list(baseline.ranks) or evaluation.words != baseline.words:
                raise ValueError("its layers or reference words are not the header's")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path}, line {number} is damaged ({error!r}); repair or remove the file") from error
        ranks = tuple(evaluation.ranks.values())
        if ranks in evaluations:
            raise ValueError(f"{path}, line {number} repeats an earlier line's ranks; repair or remove the file")
        evaluations[ranks] = evaluation
    return tuple(evaluations.values())


def _locked(path: Path) -> FileLock:
    """Acquire the lock of a file and return it."""
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
    evaluation = Evaluation(
        ranks={str(name): index(rank) for name, rank in record["ranks"].items()},
        edits=tuple(map(index, record["edits"])),
        words=tuple(map(index, record["words"])),
        params=index(record["params"]),
        size_ratio=float(record["size_ratio"]),
        macs=index(record["macs"]),
        capped=index(record["capped"]),
        divergence=float(record["divergence"]) if "divergence" in record else None,
    )
    if len(evaluation.edits) != len(evaluation.words) or min(evaluation.edits, default=0) < 0:
        raise ValueError("its edits are not one number of at least 0 for each utterance")
    if not 0 < evaluation.size_ratio <= 1:
        raise ValueError(f"its size_ratio is {evaluation.size_ratio}, not above 0 and at most 1")
    return evaluation
