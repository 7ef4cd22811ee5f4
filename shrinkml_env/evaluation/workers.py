"""Measuring in several processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Generic, TypeVar

import torch

__all__ = ["Workers"]

Task = TypeVar("Task")
Answer = TypeVar("Answer")

_function: Callable[[Any], Any]


class Workers(Generic[Task, Answer]):
    """Processes that each hold a function and answer tasks; they start at the first one and end with this process.

    Copies and pickles start processes of their own.

    Args:
        function: Pickled to every process once, with all that it holds.
        count: Processes, of one torch thread each.
    """

    def __init__(self, function: Callable[[Task], Answer], count: int) -> None:
        self.count = count
        self._function = function
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Answer]:
        """Return the answers, in the order of the tasks, each as soon as it and those before it are there."""
        return self._started.map(_answer, tasks)

    def submit(self, task: Task) -> Future[Answer]:
        """Hand a task over; the answer is the future's result, whichever other tasks are still worked on."""
        return self._started.submit(_answer, task)

    @property
    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not forked: a process with threads, as torch starts them, cannot be forked safely.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count, context, _begin, (self._function,))
        return self._pool

    def close(self) -> None:
        """End the processes; they start again at the next task."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_pool": None}


def _begin(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process that is killed cannot end its children, which would go on with what nobody waits for."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _answer(task: Any) -> Any:
    return _function(task)
