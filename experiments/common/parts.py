"""Parts of a search, from the config groups that choose them.

A group's config is a mapping as ``gym.make`` takes it, ``name`` and options; or a class of yours, ``_target_`` and its
options, as Hydra has them.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.common.run_directory import plain
from shrinkml_env.compression.factorisations import FACTORISATIONS
from shrinkml_env.envs.assembly import named
from shrinkml_env.mdp.actions import ACTIONS
from shrinkml_env.mdp.constraints import CONSTRAINTS
from shrinkml_env.mdp.observations import OBSERVATIONS
from shrinkml_env.mdp.rewards import REWARDS
from shrinkml_env.mdp.shaping import POTENTIALS
from shrinkml_env.space.search_space import SEARCH_SPACES

__all__ = ["REGISTRIES", "check_part", "label", "part"]

REGISTRIES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "action": ACTIONS,
    "observation": OBSERVATIONS,
    "reward": REWARDS,
    "constraint": CONSTRAINTS,
    "shaping": POTENTIALS,
    "factorisation": FACTORISATIONS,
    "search_space": SEARCH_SPACES,
}
"""Group -> the names that it knows."""

MADE_FOR = {
    "action": ("problem",),
    "observation": ("problem",),
    "shaping": ("problem",),
    "constraint": ("evaluator", "search_space"),
}
"""Groups whose classes are made for something: the first arguments, which are no options."""

CALLED_WITH = {
    "reward": ("evaluation", "baseline"),
    "factorisation": ("model",),
    "search_space": ("layers",),
}
"""Groups whose finished parts are called, with these arguments; a function of yours has ``_partial_: true``."""


def part(group: str, config: DictConfig) -> Any:
    """Return what ``gym.make`` takes for a part.

    Args:
        group: The group, such as ``"reward"``.
        config: The group's config.

    Returns:
        A mapping with ``name`` and options; or, of a class of yours, an object, or a `functools.partial` where
        ``gym.make`` makes the object.
    """
    if "_target_" not in config:
        return plain(config)
    partial = {"_partial_": True} if group in MADE_FOR else {}
    return instantiate(config, _convert_="all", **partial)


def check_part(group: str, config: DictConfig) -> None:
    """Find out what is wrong with a part before anything is made.

    Args:
        group: As in `part`; or ``"agent"``.
        config: The group's config.

    Raises:
        ValueError: The name is unknown, the class cannot be imported or is none, or an option is missing or unknown.
    """
    if "_target_" not in config:
        for option in config:
            if OmegaConf.is_missing(config, option):
                raise ValueError(f"{group}: {config.name!r} needs its option {option!r}: give {group}.{option!s}=...")
        named(group, REGISTRIES[group], plain(config), given=len(MADE_FOR.get(group, ())))
        return
    if OmegaConf.is_missing(config, "_target_"):
        raise ValueError(f"{group}=custom needs the path of your class: {group}._target_=my.module.MyClass")
    target = config._target_
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        where = "its module must lie in this folder or on PYTHONPATH"
        raise ValueError(f"{group}._target_={target} cannot be imported: {error}; {where}") from error
    if not callable(found):
        raise ValueError(f"{group}._target_={target} is not a class but a {type(found).__name__}")
    for option in config:
        if OmegaConf.is_missing(config, option):
            raise ValueError(f"{group}: {target} needs its option {option!r}: give {group}.{option!s}=...")
    _check_options(group, target, found, config)


def _check_options(group: str, target: str, found: Callable[..., Any], config: DictConfig) -> None:
    """Raise a ValueError that names the options of a class if the config has others, or lacks one."""
    try:
        parameters = dict(inspect.signature(found).parameters)
    except ValueError:
        return  # It is written in C and does not say.
    for name in _given(group, bool(config.get("_partial_")), list(parameters)):
        parameters.pop(name, None)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    options = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    given = [str(option) for option in config if str(option) not in ("_target_", "_partial_", "_convert_", "_args_")]
    valid = ", ".join(options) or "none"
    for option in given:
        if option not in options and not open_ended:
            raise ValueError(f"{group}: {target} has no option {option!r}; its options are {valid}")
    for option, parameter in options.items():
        if parameter.default is parameter.empty and option not in given:
            raise ValueError(f"{group}: {target} needs its option {option!r}: give +{group}.{option}=...")


def _given(group: str, partial: bool, names: list[str]) -> list[str]:
    """Return the parameters of a class or function that are no options."""
    if group == "agent":
        return ["env"]
    if group in MADE_FOR:
        return names[: len(MADE_FOR[group])]
    return names[: len(CALLED_WITH[group])] if partial else []


def label(config: Any) -> str:
    """Return a part as people write it, ``linear(size_weight=0.2)``, and what is nested in it likewise.

    Args:
        config: A group's config, or a value in it.
    """
    value = plain(config)
    if not isinstance(value, dict):
        return str(value)
    name = str(value.get("name", value.get("_target_", ""))).rpartition(".")[2]
    options = ", ".join(
        f"{option}={label(inner)}" for option, inner in value.items() if option != "name" and option[:1] != "_"
    )
    return f"{name}({options})" if name else f"{{{options}}}"
