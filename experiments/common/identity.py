"""The key of whatever is made once and found again: a run, a cell of a study, a training."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

__all__ = ["IRRELEVANT", "describe", "key_of"]

IRRELEVANT = frozenset({"outputs", "workers", "memory_mb", "launcher"})
"""Options that say where results lie and how fast they are made. No result depends on them."""

OURS = frozenset({"shrinkml_env", "agents", "experiments"})


def key_of(content: Any, besides: Sequence[str] = ()) -> str:
    """Return eight hexadecimal digits that tell this content from any other.

    Args:
        content: A config, or mappings, lists and values that are JSON.
        besides: Options that do not count, at the top of the content, besides the `IRRELEVANT` ones.
    """
    described = describe(content)
    if isinstance(described, dict):
        described = {name: value for name, value in described.items() if name not in IRRELEVANT.union(besides)}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]


def describe(content: Any) -> Any:
    """Return what a config means, as JSON, wherever its classes lie.

    Parts that the library registers are named by ``name`` already. A class that a ``_target_`` names is described by

    - its name alone, if it is one of ShrinkML's own: its module may move;
    - its import path, if it belongs to an installed package;
    - its import path and a hash of its module's code, if it is yours: changed code is another experiment.
    """
    if OmegaConf.is_config(content):
        content = OmegaConf.to_container(content, resolve=True)
    if isinstance(content, Mapping):
        return {
            str(name): _describe_class(value) if name == "_target_" else describe(value)
            for name, value in content.items()
        }
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [describe(value) for value in content]
    return str(content) if isinstance(content, Path) else content


def _describe_class(target: str) -> Any:
    package = target.partition(".")[0]
    if package in OURS:
        return target.rpartition(".")[2]
    if package in sys.stdlib_module_names:
        return target
    try:
        module = pkgutil.resolve_name(target).__module__
        found = importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return target  # Whoever makes it says what is wrong.
    if found is None or found.origin is None or not Path(found.origin).is_file() or _is_installed(Path(found.origin)):
        return target
    return [target, hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()]


def _is_installed(path: Path) -> bool:
    return "site-packages" in path.parts or "dist-packages" in path.parts
