"""Parts of a search (action, reward, ...) from their config groups.

The config of a group is a mapping with ``name`` and options, as ``gym.make`` takes it; or the user's own class, with
Hydra's ``_target_`` and its options.
"""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, get_type_hints

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.common.agent import steps_are_known
from experiments.common.compose import to_container
from experiments.common.kinds import kind_of
from shrinkml_env.compression.factorisations import ActivationAware, factorisation_maker
from shrinkml_env.description import text_of
from shrinkml_env.envs.assembly import PARTS
from shrinkml_env.registry import bind_options

__all__ = ["GROUPS", "activation_aware", "check_part", "label", "part"]

GROUPS = frozenset({*PARTS, "agent"})
"""The config groups that choose a part."""

CALLED_WITH = {
    "reward": ("evaluation", "baseline"),
    "factorisation": ("model",),
    "search_space": ("layers",),
}
"""Group whose parts are callables -> the arguments of the call; a user's function needs ``_partial_: true``."""


def part(group: str, config: DictConfig) -> Any:
    """Return the argument of ``gym.make`` for a part.

    Args:
        group: The group, such as ``"reward"``.
        config: The group's config.

    Returns:
        A mapping with ``name`` and options; or, for the user's own class, an object, or a `functools.partial` if
        ``gym.make`` makes the object.
    """
    if "_target_" not in config:
        return to_container(config)
    partial = {"_partial_": True} if PARTS[group].base else {}
    return instantiate(config, _convert_="all", **partial)


def activation_aware(config: Mapping[Any, Any] | DictConfig) -> ActivationAware | None:
    """Return what the config of a factorisation makes if it is activation-aware, and so has calibration speech."""
    maker = factorisation_maker(part("factorisation", OmegaConf.create(to_container(config))))
    return maker if isinstance(maker, ActivationAware) else None


def check_part(group: str, config: DictConfig) -> None:
    """Check the config of a part before the command runs.

    Args:
        group: The group, such as ``"reward"`` or ``"agent"``; or the dotted name of another class in a config.
        config: The group's config.

    Raises:
        ValueError: The name is unknown, the class cannot be imported or is not a class, or an option is missing,
            unknown or has another type than the class's parameter.
    """
    if not isinstance(config, DictConfig):
        raise ValueError(f"{group} must be chosen by its name or be a mapping, got {config!r}")
    if OmegaConf.is_missing(config, "_target_"):
        raise ValueError(f"{group}=custom needs the path of your class: {group}._target_=my.module.MyClass")
    for option in config:
        if OmegaConf.is_missing(config, option):
            raise ValueError(f"{group} needs its option {option!r}: give {group}.{option!s}=...")
    if "_target_" not in config:
        made = bind_options(group, PARTS[group].registry, to_container(config), PARTS[group].positional)
        _check_types(group, made.func, to_container(config))  # type: ignore[attr-defined]
        return
    found = _found(group, config._target_)
    _check_names(group, found, config)
    with steps_are_known():
        _check_types(group, found, to_container(config))


def _found(group: str, target: str) -> Callable[..., Any]:
    """Import the class or function of an import path."""
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        where = "its module must lie in this folder or on PYTHONPATH"
        raise ValueError(f"{group}._target_={target} cannot be imported: {error}; {where}") from error
    if not callable(found):
        raise ValueError(f"{group}._target_={target} is not a class but a {type(found).__name__}")
    made: Callable[..., Any] = found
    return made


def _check_names(group: str, found: Callable[..., Any], config: DictConfig) -> None:
    """Check that a config has no option that a class lacks, and all that it requires."""
    try:
        parameters = dict(inspect.signature(found).parameters)
    except ValueError:
        return  # a class in C without a signature
    for name in _given(group, bool(config.get("_partial_")), list(parameters)):
        parameters.pop(name, None)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    options = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    given = [str(option) for option in config if str(option) not in HYDRAS]
    valid = ", ".join(options) or "none"
    for option in given:
        if option not in options and not open_ended:
            raise ValueError(f"{group}: {config._target_} has no option {option!r}; its options are {valid}")
    for option, parameter in options.items():
        if parameter.default is parameter.empty and option not in given:
            raise ValueError(f"{group}: {config._target_} needs its option {option!r}: give +{group}.{option}=...")


HYDRAS = ("_target_", "_partial_", "_convert_", "_args_", "_recursive_")
"""Keys for Hydra's `instantiate`, which are not options."""


def _check_types(name: str, found: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise a ValueError for the first option, nested ones included, whose type differs from the parameter's."""
    types = _types(inspect.unwrap(getattr(found, "__init__") if isinstance(found, type) else found))  # noqa: B009
    for option, value in options.items():
        if isinstance(value, Mapping) and "_target_" in value:
            _check_types(f"{name}.{option}", _found(f"{name}.{option}", value["_target_"]), value)
        elif option in types:
            kind_of(types[option]).require(f"{name}.{option}", value)


def _types(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a function's parameters, without those that its module imports for type checkers only."""
    found: dict[str, Any] = {}
    for name, hint in getattr(function, "__annotations__", {}).items():
        one = SimpleNamespace(__annotations__={name: hint})
        with suppress(NameError, TypeError, AttributeError, SyntaxError):
            found |= get_type_hints(one, vars(sys.modules[function.__module__]))
    return found


def _given(group: str, partial: bool, names: list[str]) -> list[str]:
    """Return the names of the parameters that are not options."""
    if group == "agent":
        return ["env"]
    if group in PARTS and PARTS[group].base:
        return names[: PARTS[group].positional]
    return names[: len(CALLED_WITH[group])] if partial and group in CALLED_WITH else []


def label(config: Any) -> str:
    """Return a part, nested ones included, as a readable text: ``linear(size_weight=0.2)``.

    Args:
        config: A group's config, or a value in it.
    """
    return text_of(_named(to_container(config)))


def _named(value: Any) -> Any:
    """Return a part with the name of its class in place of Hydra's options."""
    if isinstance(value, list):
        return [_named(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    options = {option: _named(inner) for option, inner in value.items() if option[:1] != "_"}
    target = value.get("_target_", "").rpartition(".")[2]
    return {"name": target, **options} if target else options
