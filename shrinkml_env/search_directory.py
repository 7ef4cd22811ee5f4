"""The directory of a search: the description of the search, and the files of its result."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import PickleError
from typing import Any

from safetensors import SafetensorError

from shrinkml_env.agent import Learner
from shrinkml_env.checks import whole_number
from shrinkml_env.compression import save_compressed
from shrinkml_env.compression.canonical import digest
from shrinkml_env.data import UtteranceSpec
from shrinkml_env.description import describe, text_of
from shrinkml_env.envs.wrapped import AnyEnv, arguments_of, num_envs_of, shrink_env
from shrinkml_env.files import read_json_object, write_atomic
from shrinkml_env.search_result import MODELS, SearchResult

__all__ = [
    "claim",
    "describe_search",
    "origin",
    "provenance",
    "require_folder",
    "require_no_larger",
    "require_own",
    "save_agent",
    "write",
]

RESULT = "best.json"
"""The file of the result. It is written last: where it exists, the search is finished."""

IDENTITY = "search.json"
"""The file with the description of the search, see `describe_search`."""

UNSAVED = (AttributeError, LookupError, OSError, PickleError, RuntimeError, SafetensorError, TypeError, ValueError)
"""The errors of an agent's `save`: of the disk, and of what the format cannot hold."""

ABSENT = object()
"""The value of an entry that a description does not have."""


def require_folder(directory: str | os.PathLike[str]) -> Path:
    """Return a directory as a path.

    Raises:
        ValueError: The name is empty, or belongs to a file.
    """
    if not os.fspath(directory):
        raise ValueError("directory must be the name of a folder, got ''; None keeps nothing")
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"directory must be the name of a folder: {folder} is a file")
    return folder


def describe_search(env: AnyEnv, agent: Learner) -> dict[str, Any]:
    """Return a JSON-able description of a search's parts, see `describe`; `SupportsEvaluate.key` covers the rest."""
    process = shrink_env(env)
    space = process.problem.search_space
    candidates = json.dumps(space.tabulate(lambda layer, rank: layer.name))
    levels = [] if space.levels is None else [json.dumps(space.levels)]
    content = digest([part.encode() for part in (candidates, *levels)])[:8]
    return {
        "agent": describe(agent),
        "action": describe(process.action),
        "observation": describe(process.observation),
        "reward": describe(process.problem.reward_function),
        "constraint": describe(process.problem.constraint),
        "shaping": describe(process.potential),
        "search space": f"{len(space.layers)} layers, {space.size:.1e} configurations, {content}",
        "environments": num_envs_of(env),
    }


def claim(folder: Path, search: Mapping[str, Any]) -> None:
    """Write the description of a search into its directory if there is none, or else compare it: `require_own`.

    Args:
        folder: The directory; the caller holds its lock.
        search: As `require_own`.

    Raises:
        ValueError: As `require_own`.
    """
    known = require_own(folder, search)
    if known is None or (known.get("agent") is None and search["agent"] is not None):
        write_atomic(folder / IDENTITY, json.dumps(search, indent=2))


def require_own(folder: Path, search: Mapping[str, Any]) -> dict[str, Any] | None:
    """Check that a directory does not belong to another search, and return the description in it, if there is one.

    Args:
        folder: The directory, which may not exist yet.
        search: The return value of `describe_search`; an agent of None, here or in the directory, is any agent.

    Raises:
        ValueError: The directory belongs to another search, or the file with its description is damaged.
    """
    path = folder / IDENTITY
    if not path.exists():
        return None
    try:
        was = read_json_object(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): give another directory, or remove this one") from error
    any_agent = {"agent": None} if None in (was.get("agent"), search.get("agent")) else {}
    differences = "; ".join(_differences({**was, **any_agent}, {**search, **any_agent}))
    if differences:
        raise ValueError(f"{folder} holds a search with {differences}: give another directory, or remove this one")
    return was


def require_no_larger(folder: Path, budget: int) -> None:
    """Check that a search does not replace the result of a longer one.

    Args:
        folder: The directory; the caller holds its lock.
        budget: The search's budget of unique evaluations.

    Raises:
        ValueError: The directory holds the result of a search with more evaluations, or its record is damaged.
    """
    path = folder / RESULT
    if not path.exists():
        return
    evaluations = whole_number(f"{path}: evaluations", read_json_object(path).get("evaluations", 0), least=0)
    if evaluations > budget:
        raise ValueError(
            f"{folder} holds the result of {evaluations} evaluations, more than the budget of {budget}: give a budget "
            "of at least as many, or another directory"
        )


def origin(
    settings: Mapping[str, str],
    model: Any = None,
    utterances: Mapping[str, Any] | None = None,
    factorisation: Any = None,
    granularity: Any = None,
) -> dict[str, Any]:
    """Return the entries of ``best.json`` that describe how a result was made, for readers and to measure it again.

    They hold names, paths and options; what is None or was given as an object is left out.

    Args:
        settings: Whatever readers should know, name -> text.
        model: The original, as `load_model` takes it.
        utterances: The sets that were measured, each as `load_utterances` takes it.
        factorisation: As `make_env` takes it.
        granularity: As `make_env` takes it.
    """
    entries = {
        "settings": settings,
        "model": model,
        "factorisation": {"name": factorisation} if isinstance(factorisation, str) else factorisation,
        "granularity": granularity,
        "utterances": utterances,
    }
    plain = {name: _plain(value) for name, value in entries.items()}
    return {name: value for name, value in plain.items() if value is not None}


def provenance(env: AnyEnv, agent: Learner, dev: UtteranceSpec, test: UtteranceSpec) -> dict[str, Any]:
    """Return the `origin` of the result of a search."""
    settings = {name: text_of(part) for name, part in describe_search(env, agent).items()}
    arguments = arguments_of(env)
    if not arguments:
        return origin(settings)
    sets = {"proxy": arguments["proxy"], "dev": dev, "test": test}
    return origin(settings, arguments["model"], sets, arguments["factorisation"], arguments["granularity"])


def save_agent(agent: Learner, directory: Path) -> tuple[str, ...]:
    """Save an agent that has a method ``save(path)``; return notes for people: what went wrong, if anything did.

    An agent that cannot be saved is not an error, which would lose the result of its search.
    """
    if hasattr(agent, "save"):
        try:
            agent.save(directory / "agent")
        except UNSAVED as error:
            return (f"The agent could not be saved: {type(error).__name__}: {error}",)
    return ()


def write(result: SearchResult, directory: Path) -> None:
    """Write both models and, last, ``best.json``, which marks the search as finished."""
    # The record of an earlier search must not remain beside the models of this one.
    (directory / RESULT).unlink(missing_ok=True)
    for name, model in zip(MODELS, (result.original, result.model), strict=True):
        save_compressed(model, directory / name)
    write_atomic(directory / RESULT, json.dumps(result.to_json(), indent=2))


def _plain(value: Any) -> Any:
    """Return a value as it is after a round trip through JSON, paths as text; None if it is not JSON-able."""
    try:
        return json.loads(json.dumps(value, default=os.fspath))
    except (TypeError, ValueError):
        return None


def _differences(was: Any, now: Any, key: str = "") -> Iterator[str]:
    """Yield what differs between two descriptions, for people; an entry of one side only is a difference."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        # Different classes have different settings, which would hide the names.
        names = {"name": None} if was.get("name") != now.get("name") else {**now, **was}
        for name in names:
            yield from _differences(was.get(name, ABSENT), now.get(name, ABSENT), f"{key}.{name}".lstrip("."))
    elif was != now:
        yield f"{key} {_shown(was)}, not {_shown(now)}"


def _shown(value: Any) -> str:
    return "nothing" if value is ABSENT else repr(value)
