"""Many results, each in a file: what is there already is not made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from experiments.common.run_directory import read_json, write_json
from shrinkml_env.evaluation.workers import Workers

__all__ = ["results_of"]

Task = TypeVar("Task")


def results_of(
    tasks: Mapping[Path, Task], make: Callable[[Task], dict[str, Any]], workers: int = 1, what: str = "runs"
) -> list[dict[str, Any]]:
    """What `make` gives for each task, in their order, from the tasks' files where they are there.

    Args:
        tasks: File -> task; the folders must exist.
        make: Gives JSON; pickled by its name.
        workers: Processes, of one torch thread each.
        what: Stands before the progress bar.
    """
    missing = [(path, task) for path, task in tasks.items() if not path.exists()]
    # The worker writes: an answer that waits for an earlier one would be lost with this process.
    pool: Workers[tuple[Path, Task], None] = Workers(partial(_write, make), workers)
    for _ in tqdm(islice(pool(missing), len(missing)), total=len(missing), desc=what):
        pass
    pool.close()
    return [read_json(path) for path in tasks]


def _write(make: Callable[[Task], dict[str, Any]], item: tuple[Path, Task]) -> None:
    path, task = item
    write_json(path, make(task), indent=None)  # There are hundreds, and each may hold a number for every utterance.
