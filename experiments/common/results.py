"""The results of a study: a file of JSON lines, so that no result is computed twice.

A line holds the key of a cell (one search or training), a description of the cell, and its result.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock

from experiments.common.identity import key_content, key_of, versions
from shrinkml_env.asr.zoo import folder_of
from shrinkml_env.compression.canonical import digest
from shrinkml_env.evaluation.workers import Workers
from shrinkml_env.files import append_lines, parse_json, read_lines
from shrinkml_env.progress import progress

__all__ = ["KEPT", "Cell", "append_result", "kept_results", "line_of", "model_files", "read_results", "results_of"]

KEPT = Path(__file__).parents[1] / "results"
"""The folder of results that the documentation quotes, one file for each study."""

Task = TypeVar("Task")


@dataclass(frozen=True)
class Cell(Generic[Task]):
    """One cell of a study's grid: one search or training.

    Attributes:
        task: The argument of the function that computes the result; it is pickled.
        content: All that the result depends on; it determines the key.
        about: Description for readers of the file: ``{"agent": "ppo", "seed": 3}``.
    """

    task: Task
    content: Any
    about: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """The key of the result."""
        return key_of(self.content)


def model_files(model: str) -> dict[str, str]:
    """Return what a cell's content holds of a model besides its name: the hash of its files if it is in a folder.

    Another model may be saved in the same folder later.

    Args:
        model: The name or the folder, as `shrinkml_env.load_model` takes it.

    Raises:
        FileNotFoundError: The folder holds no model.
    """
    folder = folder_of(model)
    if folder is None:
        return {}
    return {"model": digest(path.read_bytes() for path in sorted(folder.glob("*.*")) if path.is_file())}


def results_of(
    cells: Sequence[Cell[Task]],
    make: Callable[[Task], dict[str, Any]],
    path: Path,
    workers: int = 1,
    name: str = "runs",
    known: Mapping[str, dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Return the result of each cell, in their order; missing results are computed and appended to the file.

    Args:
        cells: The cells; cells with the same key are computed once.
        make: Computes the JSON-able result of a cell's task; it is pickled by its name.
        path: The file; its folder must exist.
        workers: Number of processes, each with one torch thread.
        name: The text before the progress bar.
        known: Key -> result, of results in addition to those in the file.

    Raises:
        ValueError: The file is damaged.
    """
    found = {**(known or {}), **read_results(path)}
    missing = {cell.key: cell for cell in cells if cell.key not in found}
    pool = Workers(partial(_made_once, make, path), workers)
    try:
        futures = [pool.submit(cell) for cell in missing.values()]
        for future in progress(as_completed(futures), total=len(futures), desc=name, disable=not futures):
            key, result = future.result()
            found[key] = result
    finally:
        # If a cell has failed, the running ones are finished and kept; the others are cancelled.
        pool.close()
    return [found[cell.key] for cell in cells]


def _made_once(make: Callable[[Task], dict[str, Any]], path: Path, cell: Cell[Task]) -> tuple[str, dict[str, Any]]:
    """Compute a cell's result and append it, unless another process has done so; return its key and the result."""
    lock = path.with_name(f"{path.name}.{cell.key}.lock")
    with FileLock(lock):
        try:
            result = read_results(path).get(cell.key)
            if result is None:
                with errors_tell(cell):
                    result = make(cell.task)
                append_result(path, cell, result)
                # Environments refer to themselves: what a cell has left goes before the next one needs room.
                gc.collect()
        finally:
            # Processes that wait for the lock, or create it again, will find the result.
            lock.unlink(missing_ok=True)
    return cell.key, result


@contextmanager
def errors_tell(cell: Cell[Any]) -> Iterator[None]:
    """Let a ValueError say which cell of a study has failed."""
    try:
        yield
    except ValueError as error:
        about = ", ".join(f"{name}={value}" for name, value in cell.about.items())
        raise ValueError(f"{about}: {error}") from error


def append_result(path: Path, cell: Cell[Any], result: Mapping[str, Any]) -> None:
    """Append the result of a cell as a line, with the versions that made it; several processes may do so at once."""
    record = {"key": cell.key, "cell": key_content(cell.about), "result": result, "versions": versions()}
    line = json.dumps(record)
    with FileLock(path.with_name(f"{path.name}.lock")):
        append_lines(path, [line])


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Read a file of results: key -> result. An incomplete last line is ignored.

    Raises:
        ValueError: A line is damaged.
    """
    if not path.exists():
        return {}
    found = {}
    lines, _ = read_lines(path)
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
            found[str(record["key"])] = dict(record["result"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is damaged ({error!r}): remove it or the file") from error
    return found


def line_of(path: Path, key: str) -> int | None:
    """Return the number of the line with a key, from 1; None if there is none."""
    lines = read_lines(path)[0] if path.exists() else []
    numbers = [number for number, line in enumerate(lines, start=1) if f'"{key}"'.encode() in line]
    return numbers[-1] if numbers else None


def kept_results(study: str) -> dict[str, dict[str, Any]]:
    """Return the kept results of a study in `KEPT`: key -> result."""
    return read_results(KEPT / f"{study}.jsonl")
