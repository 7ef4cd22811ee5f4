"""The description of an agent or another part of a search: its class and its settings."""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from typing import Any

import numpy as np
from torch import Tensor, nn

from shrinkml_env.agent import is_sb3_algorithm

__all__ = ["describe", "text_of"]

NO_SETTINGS = frozenset(
    {"env", "problem", "evaluator", "search_space", "device", "verbose", "tensorboard_log", "progress_bar"}
)
"""Arguments that hold what a part works on, where it computes and what it prints."""

DEPTH = 4
"""The number of objects, one in the other, with settings: agent, sampler, its strategy, its crossover."""

MISSING = object()


def describe(part: object, depth: int = DEPTH) -> Any:
    """Return a JSON-able description of an agent or another part of a search.

    An object is described by the name of its class and its settings: the arguments of its constructor, read from
    attributes of the same name, with or without a leading underscore. If it does not keep all of them so, its public
    attributes are settings, too, as far as JSON can hold them. Settings may be objects themselves. A class or a
    function is described by its name, a `functools.partial` by its function and arguments, a network by its class, an
    array or a tensor by its text, which is shortened if it is large.

    Args:
        part: The part, or a setting of it.
        depth: The number of objects, one in the other, whose settings are described; deeper ones have only their class.
    """
    if part is None or isinstance(part, bool | int | float | str):
        return part
    if isinstance(part, os.PathLike | np.ndarray | np.generic | Tensor | Enum):
        return str(part)
    if isinstance(part, Mapping):
        return {str(name): describe(value, depth) for name, value in part.items()}
    if isinstance(part, Sequence | Set):
        values = sorted(part, key=str) if isinstance(part, Set) else part
        return [describe(value, depth) for value in values]
    if isinstance(part, functools.partial):
        bound = {"function": part.func, "arguments": part.args, "options": part.keywords}
        return {"name": "partial"} | {name: describe(value, depth) for name, value in bound.items() if value}
    if isinstance(part, type) or inspect.isroutine(part):
        return {"name": f"{part.__module__}.{part.__qualname__}"}
    name = {"name": type(part).__name__}
    return name if depth == 0 or isinstance(part, nn.Module) else name | _settings(part, depth - 1)


def text_of(description: Any) -> str:
    """Return the description of a part as a readable text, ``Linear(size_weight=0.2)``, without settings that are None.

    Args:
        description: What `describe` returns, or a name and options as `make_env` takes them.
    """
    if isinstance(description, list):
        return f"[{', '.join(map(text_of, description))}]"
    if not isinstance(description, Mapping):
        return str(description)
    options = ", ".join(
        f"{name}={text_of(value)}" for name, value in description.items() if name != "name" and value is not None
    )
    name = str(description.get("name", ""))
    if not name:
        return f"{{{options}}}"
    return f"{name}({options})" if options else name


def _settings(part: object, depth: int) -> dict[str, Any]:
    arguments = _arguments(type(part))
    values = {name: getattr(part, name, getattr(part, f"_{name}", MISSING)) for name in arguments - NO_SETTINGS}
    kept = {name: value for name, value in values.items() if value is not MISSING}
    # Other attributes of Stable-Baselines3's algorithms change while they learn.
    if len(kept) < len(values) and not is_sb3_algorithm(part):
        attributes = getattr(part, "__dict__", {})
        kept |= {name: value for name, value in attributes.items() if _is_public(name) and _is_plain(value)}
    return {name: describe(kept[name], depth) for name in sorted(kept)}


def _arguments(kind: type) -> set[str]:
    """Return the names of a constructor's arguments, with those of the base class if it takes arbitrary ones."""
    names: set[str] = set()
    for base in kind.__mro__:
        try:
            parameters = inspect.signature(base).parameters
        except ValueError:
            break  # a class in C without a signature
        names |= parameters.keys()
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names


def _is_public(name: str) -> bool:
    return not name.startswith("_") and name not in NO_SETTINGS


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
