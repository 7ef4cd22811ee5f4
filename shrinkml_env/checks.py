"""Checks of argument values."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

__all__ = ["is_number", "number", "whole_number"]


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


def number(
    name: str,
    value: Any,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    meaning: str = "",
) -> float:
    """Return a value as a float, after checking that it is a finite number in a range.

    Args:
        name: The argument's name, for the error message.
        value: An int, a float or one of NumPy's numbers; a bool, NaN and infinity are not accepted.
        at_least: The smallest number allowed.
        above: A lower bound that itself is not allowed.
        at_most: The largest number allowed.
        below: An upper bound that itself is not allowed.
        meaning: What the number is, such as ``"a share of the original"``. The error message then says this, and
            gives the range as an interval.

    Raises:
        ValueError: The value is not a finite number, or is out of the range.
    """
    # As a float: NumPy would round the bounds to the precision of its own number, so that float16(0) >= 1e-9.
    given = _as_float(value)
    # Neither NaN nor infinity lies strictly between the bounds, whatever they are.
    if at_least <= given <= at_most and above < given < below:
        return given
    if meaning:
        start = f"[{at_least:g}" if at_least > above else f"({above:g}"
        end = f"{at_most:g}]" if at_most < below else f"{below:g})"
        wanted = f"{meaning} in {start}, {end}"
    else:
        bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
        limits = [f"{words} {bound:g}" for words, bound in bounds.items() if math.isfinite(bound)]
        wanted = " and ".join(limits) or "a number"
    raise ValueError(f"{name} must be {wanted}, got {value!r}")


def is_number(value: Any) -> bool:
    """Return whether a value is a real number: an int, a float or one of NumPy's, but not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _as_float(value: Any) -> float:
    """Return a number as a float, infinity for an int that is too large, and NaN if the value is not a number."""
    try:
        return float(value) if is_number(value) else math.nan
    except OverflowError:
        return math.inf
