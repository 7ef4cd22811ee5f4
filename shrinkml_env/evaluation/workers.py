"""A pool of worker processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

__all__ = ["Workers"]

Task = TypeVar("Task")
Answer = TypeVar("Answer")

_EXIT_SECONDS = 5
"""Seconds to wait for the exit code of a process that has died."""

_function: Callable[[Any], Any]


class Workers(Generic[Task, Answer]):
    """A pool of processes that apply one function to tasks.

    The processes start with the first task and end with this process. Copies and pickles of the pool start processes
    of their own. Reading a result raises a `ValueError` if a worker could not load the function, and a
    `ChildProcessError` if a worker died; both state the cause.

    Args:
        function: Applied to every task; it is pickled to every process once.
        count: Number of processes, each with one torch thread.
    """

    def __init__(self, function: Callable[[Task], Answer], count: int) -> None:
        self.count = count
        self._function = function
        self._pool: ProcessPoolExecutor | None = None
        self._processes: set[BaseProcess] = set()

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Answer]:
        """Return an iterator over the results, in the order of the tasks, each as soon as it is ready."""
        with self._running_pool() as pool:
            answers = pool.map(_answer, tasks)
        return self._with_cause(answers)

    def submit(self, task: Task) -> Future[Answer]:
        """Start a task and return the future of its result."""
        result: Future[Answer] = Future()

        def pass_on(done: Future[Answer]) -> None:
            if done.cancelled():
                result.cancel()
            elif (error := done.exception()) is not None:
                result.set_exception(_pool_error(self._processes) if isinstance(error, BrokenProcessPool) else error)
            else:
                result.set_result(done.result())

        with self._running_pool() as pool:
            future = pool.submit(_answer, task)
        future.add_done_callback(pass_on)
        return result

    def close(self) -> None:
        """Stop the processes; they start again with the next task."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool, self._processes = None, set()

    @contextmanager
    def _running_pool(self) -> Iterator[ProcessPoolExecutor]:
        """Yield the pool, started if necessary, and record which processes it starts."""
        if self._pool is None:
            # Not forked: a process with threads, as torch starts them, cannot be forked safely.
            context = multiprocessing.get_context("spawn")
            function: Any = _PickledFunction(self._function)  # unpickles as the function itself
            self._pool = ProcessPoolExecutor(self.count, context, _start_worker, (function,))
        before = set(multiprocessing.active_children())
        try:
            yield self._pool
        except BrokenProcessPool as error:
            raise _pool_error(self._processes) from error
        self._processes |= set(multiprocessing.active_children()) - before

    def _with_cause(self, answers: Iterator[Answer]) -> Iterator[Answer]:
        try:
            yield from answers
        except BrokenProcessPool as error:
            processes = self._processes
            self.close()  # waits until all have an exit code
            raise _pool_error(processes) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_pool": None, "_processes": set()}


def _pool_error(processes: Collection[BaseProcess]) -> ChildProcessError:
    """Return an error that states why the pool of these processes is broken."""
    ended = wait([process.sentinel for process in processes], timeout=0)
    for process in processes:
        if process.sentinel in ended:
            process.join(_EXIT_SECONDS)  # the sentinel is ready a moment before the exit code
    codes = [process.exitcode for process in processes if process.exitcode]
    # When one has died, the pool stops the others by SIGTERM.
    code = next((code for code in codes if code != -signal.SIGTERM), -signal.SIGTERM)
    if code < 0:
        advice = ": the memory may be full; give fewer `workers`" if code == -signal.SIGKILL else ""
        return ChildProcessError(f"a worker was ended by {signal.Signals(-code).name}{advice}")
    main = getattr(sys.modules["__main__"], "__file__", None)
    if main is not None and not Path(main).exists():
        return ChildProcessError(
            f"workers cannot import the main script {main!r}: write it to a file, or leave out `workers`"
        )
    return ChildProcessError(
        f"a worker ended with status {code}, its error stands above: a script must begin its work below "
        "`if __name__ == '__main__':`, since workers import it; or leave out `workers`"
    )


class _PickledFunction:
    """Pickles a function so that a failure to unpickle it becomes a result of the worker, not its death."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __reduce__(self) -> tuple[Callable[[bytes], Callable[[Any], Any]], tuple[bytes]]:
        try:
            return _load, (bytes(ForkingPickler.dumps(self.function)),)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ValueError(
                f"`workers` need a model that can be pickled: {error}; leave out `workers`, or change the model"
            ) from error


class _FailedFunction:
    """Stands for a function that could not be unpickled: every call raises a ValueError with the reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self, task: Any) -> Any:
        raise ValueError(self.reason)


def _load(pickled: bytes) -> Callable[[Any], Any]:
    try:
        function: Callable[[Any], Any] = pickle.loads(pickled)
    except Exception as error:
        return _FailedFunction(
            f"workers cannot load the model: {error}; move classes that are defined in the main script or in a "
            "notebook to a module that is imported, or leave out `workers`"
        )
    return function


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent has ended: a killed parent cannot stop its children."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _answer(task: Any) -> Any:
    return _function(task)
