"""Kinds of option values: a description of valid values, and a check.

Kinds are defined explicitly, or derived from the type annotation of a parameter.
"""

from __future__ import annotations

import math
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin

import torch

from shrinkml_env.data import SHIPPED_SETS

__all__ = [
    "ANYTHING",
    "DEVICE",
    "FLAG",
    "GRANULARITY",
    "NAME",
    "SEED",
    "SHARE",
    "TEXT",
    "UTTERANCES",
    "Kind",
    "MappingKind",
    "choice",
    "kind_of",
    "list_of",
    "mapping_of",
    "mapping_with",
    "number",
    "one_or_more",
    "optional",
    "whole",
]

LARGEST_SEED = 2**32 - 1
"""The largest seed of NumPy's legacy generator."""


@dataclass(frozen=True)
class Kind:
    """A kind of values.

    Attributes:
        one: Description of a value: ``"a whole number of at least 1"``.
        many: Description of several values: ``"whole numbers of at least 1"``.
        fits: A function that returns whether a value is of this kind.
    """

    one: str
    many: str
    fits: Callable[[Any], bool]

    def require(self, option: str, value: Any) -> None:
        """Check the value of an option.

        Raises:
            ValueError: The value is not of this kind.
        """
        if not self.fits(value):
            raise ValueError(f"{option} must be {self.one}, got {value!r}")


@dataclass(frozen=True)
class _ListKind(Kind):
    """Lists; the error for a single value shows how to type a list."""

    def require(self, option: str, value: Any) -> None:
        if isinstance(value, str | int | float):
            raise ValueError(f"{option} must be {self.one}, got {value!r}: give {option}=[{value}]")
        super().require(option, value)


@dataclass(frozen=True)
class MappingKind(Kind):
    """Mappings whose keys are the user's to choose; the error names the key that is wrong, or has the wrong value."""

    keys: Kind
    values: Kind

    def require(self, option: str, value: Any) -> None:
        """Check the value of an option; see `Kind.require`."""
        super().require(option, value)
        for key, inner in value.items():
            self.keys.require(f"each key of {option}", key)
            self.values.require(f"{option}.{key}", inner)


@dataclass(frozen=True)
class _OptionsKind(Kind):
    """Mappings whose keys are options; the error names the key that is unknown, missing, or has the wrong value."""

    options: Mapping[str, Kind]
    needed: Sequence[str]

    def require(self, option: str, value: Any) -> None:
        super().require(option, value)
        for key in value:
            if key not in self.options:
                raise ValueError(f"{option} has no option {key!r}; its options are {', '.join(self.options)}")
        for key in self.needed:
            if key not in value:
                raise ValueError(f"{option} needs its option {key!r}: give {option}.{key}=...")
        for key, inner in value.items():
            self.options[key].require(f"{option}.{key}", inner)


@dataclass(frozen=True)
class _UtterancesKind(Kind):
    """Utterance sets, as `shrinkml_env.load_utterances` takes them from a config."""

    def require(self, option: str, value: Any) -> None:
        super().require(option, value)
        if isinstance(value, str):
            if value not in SHIPPED_SETS:
                shipped = ", ".join(SHIPPED_SETS)
                raise ValueError(f"{option}: no utterance set is named {value!r}; the shipped ones are {shipped}")
            return
        for key, kind in _OF_A_SET.items():
            kind.require(f"{option}.{key}", value.get(key))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(least: int) -> Kind:
    """Return the kind of whole numbers of at least `least`."""
    of = f"of at least {least}"
    return Kind(f"a whole number {of}", f"whole numbers {of}", lambda value: _is_whole(value) and value >= least)


def number(least: float = -math.inf, most: float = math.inf, above: float = -math.inf, below: float = math.inf) -> Kind:
    """Return the kind of finite numbers in a range, with inclusive (`least`, `most`) or exclusive limits."""
    ends = [
        f"{words} {end:g}"
        for words, end in (("of at least", least), ("above", above), ("at most", most), ("below", below))
        if math.isfinite(end)
    ]
    limits = f" {' and '.join(ends)}" if ends else ""
    return Kind(
        f"a number{limits}",
        f"numbers{limits}",
        lambda value: _is_number(value) and least <= value <= most and above < value < below,
    )


def choice(*words: str) -> Kind:
    """Return the kind of values that are one of some words."""
    listed = ", ".join(words)
    return Kind(f"one of {listed}", f"words among {listed}", lambda value: isinstance(value, str) and value in words)


def optional(kind: Kind) -> Kind:
    """Return the kind of values of a kind, or null."""
    return _any_of(kind, NULL)


def list_of(kind: Kind, least: int = 1, distinct: bool = True) -> Kind:
    """Return the kind of lists whose values are of a kind.

    Args:
        kind: The kind of the values.
        least: The smallest number of values.
        distinct: Whether the values must be different.
    """

    def fits(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) >= least
            and (not distinct or len({str(inner) for inner in value}) == len(value))
            and all(map(kind.fits, value))
        )

    rules = [*(["at least one"] if least else []), *(["nothing twice"] if distinct else [])]
    said = f" ({', '.join(rules)})" if rules else ""
    return _ListKind(f"a list of {kind.many}{said}", f"lists of {kind.many}", fits)


def one_or_more(kind: Kind) -> Kind:
    """Return the kind of values that are of a kind, or lists of such values."""
    return _any_of(kind, list_of(kind))


def mapping_of(kind: Kind, keys: Kind | None = None) -> Kind:
    """Return the kind of mappings whose values are of a kind, and whose keys are of another, by default names."""
    return MappingKind(
        f"a mapping to {kind.many}", f"mappings to {kind.many}", _is_mapping, NAME if keys is None else keys, kind
    )


def mapping_with(options: Mapping[str, Kind], needed: Sequence[str] = ()) -> Kind:
    """Return the kind of mappings with certain keys: option -> the kind of its value.

    Args:
        options: All options that the mapping may have.
        needed: The options that it must have.
    """
    listed = f"with {', '.join(options)}"
    return _OptionsKind(f"a mapping {listed}", f"mappings {listed}", _is_mapping, options, needed)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _any_of(*kinds: Kind) -> Kind:
    """Return the kind of values that are of any of several kinds."""
    if len(kinds) == 1:
        return kinds[0]
    ones, manys = ([getattr(kind, name) for kind in kinds] for name in ("one", "many"))
    # Objects are left out of the description if there is an alternative that can be typed.
    said = [index for index, one in enumerate(ones) if not one.startswith(_OBJECT)] or [0]
    one, many = (" or ".join(dict.fromkeys(words[index] for index in said)) for words in (ones, manys))
    return Kind(one, many, lambda value: any(kind.fits(value) for kind in kinds))


def _is_device(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        device = torch.device(value)
    except RuntimeError:
        return False
    return device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count())


_OBJECT = "an object"

ANYTHING = Kind("anything", "values", lambda value: True)
NULL = Kind("null", "nulls", lambda value: value is None)
FLAG = Kind("true or false", "truth values", lambda value: isinstance(value, bool))
TEXT = Kind("text", "texts", lambda value: isinstance(value, str))
NAME = Kind("a name", "names", lambda value: isinstance(value, str) and value.strip() != "")
SHARE = number(above=0, most=1)
SEED = Kind(
    f"a whole number from 0 to {LARGEST_SEED}",
    f"whole numbers from 0 to {LARGEST_SEED}",
    lambda value: _is_whole(value) and 0 <= value <= LARGEST_SEED,
)
DEVICE = Kind("cpu, or cuda where torch finds a GPU", "devices", _is_device)
GRANULARITY = Kind(
    "layer, matrix or a mapping of blocks to their layers",
    "granularities",
    lambda value: (
        value in ("layer", "matrix")
        if isinstance(value, str)
        else isinstance(value, Mapping) and all(isinstance(layers, list) for layers in value.values())
    ),
)
UTTERANCES = _UtterancesKind(
    "the name of a shipped set or {root: DIR, subset: NAME, limit: N}",
    "utterance sets",
    lambda value: (
        isinstance(value, str)
        or (isinstance(value, Mapping) and {"root", "subset"} <= value.keys() <= {"root", "subset", "limit", "ids"})
    ),
)

_OF_A_SET = {
    "root": NAME,
    "subset": one_or_more(NAME),
    "limit": optional(whole(1)),
    "ids": optional(one_or_more(NAME)),
}


def kind_of(hint: Any) -> Kind:
    """Return the kind of config values for a parameter with a type annotation.

    A mapping with ``_target_`` is accepted for every type, since the type of the object that Hydra makes is not known.
    """
    kind = _plain_kind(hint)
    return replace(kind, fits=lambda value: kind.fits(value) or _is_made(value))


def _plain_kind(hint: Any) -> Kind:
    origin, arguments = get_origin(hint), get_args(hint)
    kind = hint if origin is None else origin
    if kind in (Union, types.UnionType):
        return _any_of(*map(_plain_kind, arguments))
    if kind is Literal:
        return choice(*map(str, arguments))
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if not isinstance(kind, type) or kind is object:
        return ANYTHING  # Any, a type variable, or an unresolved name
    if issubclass(kind, Mapping):
        return Kind("a mapping", "mappings", _is_mapping)
    if issubclass(kind, os.PathLike):
        return NAME
    if issubclass(kind, Iterable):
        inner = [_plain_kind(argument) for argument in arguments if argument is not Ellipsis]
        item = _any_of(*inner) if inner else ANYTHING
        return _ListKind(
            f"a list of {item.many}",
            f"lists of {item.many}",
            lambda value: isinstance(value, list) and all(map(item.fits, value)),
        )
    return Kind(f"{_OBJECT}, _target_={kind.__name__}", "objects", _is_made)


_SIMPLE: dict[Any, Kind] = {
    bool: FLAG,
    int: Kind("a whole number", "whole numbers", _is_whole),
    float: number(),
    str: TEXT,
    types.NoneType: NULL,
}


def _is_made(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value
