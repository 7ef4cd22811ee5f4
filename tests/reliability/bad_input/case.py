"""One kind of bad input, and the error message for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["Case", "options", "parametrised", "shown"]


@dataclass(frozen=True)
class Case:
    """One kind of bad input.

    Attributes:
        subject: The subject of the case, a heading of the table.
        given: The bad input as it is typed, or the damage of a file.
        message: A part of the error message, as a regular expression.
        act: Gives the input, in an empty folder; None if another test does.
        literal: Whether `message` is a plain text instead of a regular expression.
    """

    subject: str
    given: str
    message: str
    act: Callable[[Path], object] | None = None
    literal: bool = False

    @property
    def text(self) -> str:
        """The part of the error message, as a table shows it."""
        if self.literal:
            return self.message.strip()
        plain = re.sub(r"\.[*+]\??|\\d\+", "…", self.message.lstrip("^"))
        return re.sub(r"\\(.)", r"\1", plain).strip()


def parametrised(function: Any) -> list[tuple[Any, ...]]:
    """Return the arguments that a test is tried with."""
    (mark,) = (mark for mark in function.pytestmark if mark.name == "parametrize")
    several = not isinstance(mark.args[0], str)
    return [tuple(values) if several else (values,) for values in mark.args[1]]


def shown(value: Any) -> str:
    """Return a value as it is typed, without addresses in memory; of an array its type and shape."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{shown(key)}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        inner = ", ".join(map(shown, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    if isinstance(value, Tensor | np.ndarray) and not _is_short(value):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        return f"{kind} of {str(value.dtype).removeprefix('torch.')}, {tuple(value.shape)}"
    if isinstance(value, type):
        return value.__name__
    if callable(value) and hasattr(value, "__name__"):
        return "a function" if value.__name__ == "<lambda>" else value.__name__
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))


def _is_short(value: Tensor | np.ndarray[Any, Any]) -> bool:
    return len(value.shape) == 1 and value.shape[0] < 5


def options(arguments: dict[str, Any]) -> str:
    """Return keyword arguments as they are typed."""
    return ", ".join(f"{name}={shown(value)}" for name, value in arguments.items())
