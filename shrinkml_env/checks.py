"""Checks of values at the door, before anything is made of them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

__all__ = ["is_number", "whole_number"]


def whole_number(name: str, value: Any, least: int) -> int:
    """Return a value as an int, if it is a whole number of at least so much.

    Args:
        name: The argument's name, for the error.
        value: An int or one of NumPy's integers; a bool is neither.
        least: The smallest number allowed.

    Raises:
        ValueError: It is something else, or smaller.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def is_number(value: Any) -> bool:
    """Whether a value is a real number: an int, a float or one of NumPy's, but no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)
