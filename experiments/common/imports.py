"""Import of the user's modules before a command runs."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["import_modules"]


def import_modules(names: Any) -> None:
    """Import modules, which may register names that other options use.

    Args:
        names: The option ``imports`` of a config: a list of module names, or None.

    Raises:
        ValueError: A module cannot be imported, or the option is not a list.
    """
    if names is None:
        return
    if isinstance(names, str):
        raise ValueError(f"imports must be a list, got {names!r}: give imports=[{names}]")
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            where = "it must lie in this folder or on PYTHONPATH"
            raise ValueError(f"imports: {name} cannot be imported: {error}; {where}") from error
