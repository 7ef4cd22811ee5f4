"""Progress bars of the stages that come before a search: a library shows none, unless its user wants to see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

__all__ = ["progress_shown", "watched"]

T = TypeVar("T")

_SHOWN: ContextVar[bool] = ContextVar("progress is shown", default=False)

_DELAY = 1.0
"""Seconds before a bar appears: most stages of a small model are over by then."""


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show a bar for each stage in which `watched` goes through something, in this process."""
    token = _SHOWN.set(True)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def watched(items: Sequence[T], description: str, unit: str) -> Iterable[T]:
    """Return the items as they are, with a bar that shows how far one is if `progress_shown` says so.

    Args:
        items: What is gone through.
        description: Stands before the bar: ``"calibrating"``.
        unit: What an item is.
    """
    return tqdm(items, desc=description, unit=unit, delay=_DELAY) if _SHOWN.get() else items
