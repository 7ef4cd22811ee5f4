"""Progress bars of the stages before a search, such as calibration; off unless `progress_shown` turns them on."""

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
"""Seconds before a bar appears, so that short stages show none."""


@contextmanager
def progress_shown() -> Iterator[None]:
    """Show the progress bars of `watched`, within the context and in this process."""
    token = _SHOWN.set(True)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def watched(items: Sequence[T], description: str, unit: str) -> Iterable[T]:
    """Return an iterable over the items, with a progress bar inside `progress_shown`.

    Args:
        items: The items to iterate over.
        description: The text before the bar: ``"calibrating"``.
        unit: The name of one item: ``"batch"``.
    """
    return tqdm(items, desc=description, unit=unit, delay=_DELAY) if _SHOWN.get() else items
