"""Content keys, by which a run, a cell of a study or a training is found again."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pkgutil
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import shrinkml_env
from shrinkml_env.compression.factorisations import FACTORISATIONS

__all__ = ["IRRELEVANT", "key_content", "key_of", "versions"]

IRRELEVANT = frozenset({"outputs", "workers", "memory_mb", "reuse", "launcher", "logger", "uniform_curve"})
"""Options on which results do not depend: where they are written, and how they are computed, logged or shown."""

PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3")
"""Packages on whose versions numbers may depend."""

OURS = frozenset({"shrinkml_env", "agents", "experiments"})

LATER = {"form": "factors", "share_inputs": False, "weigh_rows": False, "augmented_copies": 0}
"""Options of factorisations that were added later, with defaults that equal the earlier behaviour. At these defaults
they are left out, so that the keys of earlier results stay valid."""

LATER_OPTIONS: dict[str, Any] = {"dense": []}
"""Options of a whole config that were added later, as `LATER`."""

LATER_ARGUMENTS: dict[str, dict[str, Any]] = {"ClosedForm": {"rounds": 1}}
"""Arguments of ShrinkML's classes that were added later, as `LATER`: name of the class -> argument -> default."""


def versions() -> dict[str, str]:
    """Return the versions of the software that makes a result: name -> version. No key depends on them."""
    return {
        "ShrinkML": shrinkml_env.__version__,
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def key_of(content: Any) -> str:
    """Return the key of a content, eight hexadecimal digits.

    Args:
        content: A config, or JSON-able mappings, lists and values, which may contain configs; see `key_content`.
    """
    return hashlib.sha256(json.dumps(key_content(content), sort_keys=True).encode()).hexdigest()[:8]


def key_content(content: Any) -> Any:
    """Return a JSON-able description of a config that does not depend on the places of ShrinkML's classes.

    A whole config, alone or inside other content, is described without its `IRRELEVANT` options, and as if nothing were
    downloaded; in a part of a config, options of these names count. The modules of its option ``imports`` are described
    like the user's own classes.

    Options that are `LATER`, `LATER_OPTIONS` or `LATER_ARGUMENTS` are left out if they have their defaults. A class
    that a ``_target_`` names is described by

    - its name only, if it is one of ShrinkML's, since its module may move;
    - its import path, if it belongs to an installed package;
    - its import path and a hash of its module's code, if it is the user's, since changed code is another experiment.
    """
    if OmegaConf.is_config(content):
        options = OmegaConf.to_container(content, resolve=True)
        if not isinstance(options, dict) or content._get_parent() is not None:
            return key_content(options)
        data = options.get("data")
        if isinstance(data, dict) and "download" in data:
            # Whether it is downloaded first does not change speech; earlier keys hold the option with its default.
            options["data"] = data | {"download": False}
        described: dict[str, Any] = key_content(
            {
                name: value
                for name, value in options.items()
                if name not in IRRELEVANT and not (name in LATER_OPTIONS and value == LATER_OPTIONS[name])
            }
        )
        if "imports" in described:
            described["imports"] = [_with_code(name, name) for name in described["imports"]]
        return described
    if isinstance(content, Mapping):
        target = _class_content(content["_target_"]) if "_target_" in content else None
        # A class of the user's has its code beside its name.
        later = LATER_ARGUMENTS.get(target, {}) if isinstance(target, str) else {}
        if content.get("name") in FACTORISATIONS:
            later = LATER
        return {
            str(name): target if name == "_target_" else key_content(value)
            for name, value in content.items()
            if name not in later or later[name] != value
        }
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [key_content(value) for value in content]
    return str(content) if isinstance(content, Path) else content


def _class_content(target: str) -> Any:
    if target.partition(".")[0] in OURS:
        return target.rpartition(".")[2]
    try:
        return _with_code(target, pkgutil.resolve_name(target).__module__)
    except (ImportError, AttributeError, ValueError):
        return target  # making the object will raise an error


def _with_code(name: str, module: str) -> Any:
    """Return a name, with a hash of its module's code if the module is neither ShrinkML's nor installed."""
    if module.partition(".")[0] in OURS | sys.stdlib_module_names:
        return name
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return name
    if found is None or found.origin is None or not Path(found.origin).is_file() or _is_installed(Path(found.origin)):
        return name
    return [name, hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()]


def _is_installed(path: Path) -> bool:
    return "site-packages" in path.parts or "dist-packages" in path.parts
