"""Measuring in several processes."""

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

_MOMENT = 5
"""Seconds."""

_function: Callable[[Any], Any]


class Workers(Generic[Task, Answer]):
    """Processes that each hold a function and answer tasks; they start at the first one and end with this process.

    Where a worker cannot load the function, or dies, the answers raise an error that says why: `ValueError` or
    `ChildProcessError`.

    Copies and pickles start processes of their own.

    Args:
        function: Pickled to every process once, with all that it holds.
        count: Processes, of one torch thread each.
    """

    def __init__(self, function: Callable[[Task], Answer], count: int) -> None:
        self.count = count
        self._function = function
        self._pool: ProcessPoolExecutor | None = None
        self._processes: set[BaseProcess] = set()

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Answer]:
        """Return the answers, in the order of the tasks, each as soon as it and those before it are there."""
        with self._watched() as pool:
            answers = pool.map(_answer, tasks)
        return self._explained(answers)

    def submit(self, task: Task) -> Future[Answer]:
        """Hand a task over; the answer is the future's result, whichever other tasks are still worked on."""
        explained: Future[Answer] = Future()

        def pass_on(done: Future[Answer]) -> None:
            if done.cancelled():
                explained.cancel()
            elif (error := done.exception()) is not None:
                explained.set_exception(_cause(self._processes) if isinstance(error, BrokenProcessPool) else error)
            else:
                explained.set_result(done.result())

        with self._watched() as pool:
            future = pool.submit(_answer, task)
        future.add_done_callback(pass_on)
        return explained

    def close(self) -> None:
        """End the processes; they start again at the next task."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool, self._processes = None, set()

    @contextmanager
    def _watched(self) -> Iterator[ProcessPoolExecutor]:
        """Give the pool, and note which processes are started."""
        if self._pool is None:
            # Not forked: a process with threads, as torch starts them, cannot be forked safely.
            context = multiprocessing.get_context("spawn")
            carried: Any = _Carried(self._function)  # which arrives as the function
            self._pool = ProcessPoolExecutor(self.count, context, _begin, (carried,))
        before = set(multiprocessing.active_children())
        try:
            yield self._pool
        except BrokenProcessPool as error:
            raise _cause(self._processes) from error
        self._processes |= set(multiprocessing.active_children()) - before

    def _explained(self, answers: Iterator[Answer]) -> Iterator[Answer]:
        try:
            yield from answers
        except BrokenProcessPool as error:
            processes = self._processes
            self.close()  # It waits for their ends, so that all have an exit code.
            raise _cause(processes) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_pool": None, "_processes": set()}


def _cause(processes: Collection[BaseProcess]) -> ChildProcessError:
    """Return why the pool of these processes is broken."""
    ended = wait([process.sentinel for process in processes], timeout=0)
    for process in processes:
        if process.sentinel in ended:
            process.join(_MOMENT)  # A process lets go of its files a moment before it has an exit code.
    codes = [process.exitcode for process in processes if process.exitcode]
    # When one has died, the pool ends the others by SIGTERM.
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


class _Carried:
    """A function on its way to a process, where it may turn out that it cannot be loaded."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __reduce__(self) -> tuple[Callable[[bytes], Callable[[Any], Any]], tuple[bytes]]:
        try:
            return _load, (bytes(ForkingPickler.dumps(self.function)),)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ValueError(
                f"`workers` need a model that can be pickled: {error}; leave out `workers`, or change the model"
            ) from error


class _NotLoaded:
    """Answers every task with the reason why there is no function."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self, task: Any) -> Any:
        raise ValueError(self.reason)


def _load(pickled: bytes) -> Callable[[Any], Any]:
    try:
        function: Callable[[Any], Any] = pickle.loads(pickled)
    except Exception as error:
        return _NotLoaded(
            f"workers cannot load the model: {error}; move classes that are defined in the main script or in a "
            "notebook to a module that is imported, or leave out `workers`"
        )
    return function


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
