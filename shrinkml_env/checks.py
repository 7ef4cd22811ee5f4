"""Checks of argument values."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

__all__ = ["is_number", "whole_number"]


def whole_number(name: str, value: Any, least: int) -> int:
    """Return a value as an int, after checking that it is a whole number and not too small.

    Args:
        name: The argument's name, for the error message.
        value: An int or one of NumPy's integers; a bool is not accepted.
        least: The smallest number allowed.

    Raises:
        ValueError: The value is not a whole number, or is below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def is_number(value: Any) -> bool:
    """Return whether a value is a real number: an int, a float or one of NumPy's, but not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)
