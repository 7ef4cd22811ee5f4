"""Progress bars that suit terminals, notebooks and the log files of batch jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, overload

from tqdm import tqdm

__all__ = ["progress", "progress_shown", "track"]

T = TypeVar("T")

_SHOWN: ContextVar[bool] = ContextVar("progress is shown", default=False)

_DELAY = 1.0
"""Seconds before a bar appears, so that short stages show none."""


_PACE = 60.0
"""The fewest seconds between two lines of a bar in a log file."""


class _Lines(tqdm):  # type: ignore[type-arg]
    """A bar that adds lines to a log file, instead of drawing itself over."""

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Return a function that prints a text as a line."""

        def print_line(text: str) -> None:
            if text:
                file.write(f"{text}\n")
                file.flush()

        return print_line


@overload
def progress(items: None = None, **options: Any) -> tqdm[Any]: ...
@overload
def progress(items: Iterable[T], **options: Any) -> tqdm[T]: ...
def progress(items: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """Return a progress bar on stderr.

    In a terminal or a notebook it is tqdm's own, which draws itself over. Elsewhere, as in the log of a batch job, it
    is a line a minute at most, and one at the end. The environment variable ``TQDM_DISABLE=1`` switches all bars off.

    Args:
        items: What the bar iterates over, if anything.
        options: tqdm's.
    """
    if not options.get("disable", True):
        del options["disable"]  # tqdm takes False as an order to ignore TQDM_DISABLE
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm(items, **options)
    return _Lines(items, **{"mininterval": _PACE, "miniters": 1, **options})


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show the progress bars of `track`, within the context and in this process."""
    token = _SHOWN.set(True)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def track(items: Sequence[T], description: str, unit: str) -> Iterable[T]:
    """Return an iterable over the items of a stage before a search, with a progress bar inside `progress_shown`.

    Args:
        items: The items to iterate over.
        description: The text before the bar: ``"calibrating"``.
        unit: The name of one item: ``"batch"``.
    """
    return progress(items, desc=description, unit=unit, delay=_DELAY) if _SHOWN.get() else items
