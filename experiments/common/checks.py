"""Checks of values in a config, before anything is made; each names the option, and what it may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

__all__ = ["require_choice", "require_shares", "require_whole"]


def require_whole(config: DictConfig, *options: str, least: int = 1) -> None:
    """Check that options are whole numbers.

    Args:
        config: Holds the options.
        options: Their dotted names.
        least: The smallest number allowed.

    Raises:
        ValueError: One is something else, or smaller.
    """
    for option in options:
        value = OmegaConf.select(config, option)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{option} must be a whole number of at least {least}, got {value!r}")


def require_shares(config: DictConfig, *options: str) -> None:
    """Check that options are numbers above 0 and at most 1, or lists of at least one such number.

    Raises:
        ValueError: One is something else.
    """
    for option in options:
        value = OmegaConf.select(config, option)
        numbers = list(value) if OmegaConf.is_list(value) else [value]
        if not numbers or not all(_is_share(number) for number in numbers):
            kind = "a list of numbers" if OmegaConf.is_list(value) else "a number"
            raise ValueError(f"{option} must be {kind} above 0 and at most 1, got {value!r}")


def require_choice(config: DictConfig, option: str, choices: Sequence[str]) -> None:
    """Check that an option is one of some words.

    Raises:
        ValueError: It is something else.
    """
    value = OmegaConf.select(config, option)
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}, got {value!r}")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
