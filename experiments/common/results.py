"""The results of a study: one file of JSON lines, from which nothing is made twice.

A line holds the key of a cell (one search, one training), what the cell is, and its result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock
from tqdm import tqdm

from experiments.common.identity import describe, key_of
from shrinkml_env.evaluation.workers import Workers
from shrinkml_env.files import errors_name, parse_json

__all__ = ["KEPT", "Cell", "append_result", "kept_results", "read_results", "results_of"]

KEPT = Path(__file__).parents[1] / "results"
"""The results that the pages of the documentation rest on, a file for each study."""

Task = TypeVar("Task")


@dataclass(frozen=True)
class Cell(Generic[Task]):
    """One thing that a study makes.

    Attributes:
        task: What is given to whoever makes it; it is pickled.
        content: All that the result depends on, from which its key follows.
        about: What it is, for people who read the file: ``{"agent": "ppo", "seed": 3}``.
    """

    task: Task
    content: Any
    about: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """The key under which the result is kept."""
        return key_of(self.content)


def results_of(
    cells: Sequence[Cell[Task]],
    make: Callable[[Task], dict[str, Any]],
    path: Path,
    workers: int = 1,
    name: str = "runs",
    known: Mapping[str, dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Return the result of each cell, in their order; what is missing is made, and appended to the file at once.

    Args:
        cells: The cells; two of the same key are made once.
        make: Makes the JSON result of a cell's task; pickled by its name.
        path: The file; its folder must exist.
        workers: Number of processes, of one torch thread each.
        name: Stands before the progress bar.
        known: Key -> result of what is known besides.

    Raises:
        ValueError: The file is damaged.
    """
    found = {**(known or {}), **read_results(path)}
    missing = {cell.key: cell for cell in cells if cell.key not in found}
    pool: Workers[Task, dict[str, Any]] = Workers(make, workers)
    futures = {pool.submit(cell.task): cell for cell in missing.values()}
    try:
        # In the order in which they are finished: a result that waited for an earlier one would be lost in a kill.
        for future in tqdm(as_completed(futures), total=len(futures), desc=name, disable=not futures):
            cell = futures[future]
            found[cell.key] = future.result()
            append_result(path, cell, found[cell.key])
    finally:
        # Where one has failed, those that are being made are kept all the same; the others are not begun.
        pool.close()
        for future, cell in futures.items():
            if cell.key not in found and future.done() and not future.cancelled() and future.exception() is None:
                append_result(path, cell, future.result())
    return [found[cell.key] for cell in cells]


def append_result(path: Path, cell: Cell[Any], result: Mapping[str, Any]) -> None:
    """Append a line; several processes may."""
    line = json.dumps({"key": cell.key, "cell": describe(cell.about), "result": result}) + "\n"
    with FileLock(path.with_name(f"{path.name}.lock")), errors_name(path), open(path, "a+b") as file:
        file.truncate(_whole_lines(path))  # What follows the last newline was torn by a kill.
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Return key -> result, of all that is in a file; a last line that a kill has torn is left out.

    Raises:
        ValueError: A line is damaged.
    """
    if not path.exists():
        return {}
    found = {}
    for number, line in enumerate(path.read_bytes()[: _whole_lines(path)].splitlines(), start=1):
        try:
            record = parse_json(line)
            found[str(record["key"])] = dict(record["result"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is damaged ({error!r}): remove it or the file") from error
    return found


def kept_results(study: str) -> dict[str, dict[str, Any]]:
    """Return key -> result of what is kept with the software of a study."""
    return read_results(KEPT / f"{study}.jsonl")


def _whole_lines(path: Path) -> int:
    """The number of bytes up to and including the last newline."""
    return path.read_bytes().rfind(b"\n") + 1
