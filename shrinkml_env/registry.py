"""Parts from their specifications: a name in a registry, a mapping with a name and options, or a finished object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["bind_options", "resolve", "resolve_for"]

T = TypeVar("T")


def resolve(kind: str, registry: Mapping[str, Callable[..., T]], spec: Any, expected: Any) -> T:
    """Make a part from its specification.

    Args:
        kind: The kind of part, for error messages: ``"reward"``.
        registry: Name -> class or factory.
        spec: A name; a mapping with ``"name"`` and options; or a finished object, which is returned unchanged.
        expected: The type of a finished object.

    Raises:
        ValueError: The name is unknown, an option is unknown or missing, or the object has another type.
    """
    if isinstance(spec, str | Mapping):
        return bind_options(kind, registry, spec, positional=0)()
    if isinstance(spec, type) or not isinstance(spec, expected):
        got = f"the class {spec.__name__}: call it" if isinstance(spec, type) else f"{spec!r}"
        raise ValueError(
            f"{kind}: must be a name, a mapping with 'name' and options, or a finished {expected.__name__}, got {got}"
        )
    finished: T = spec
    return finished


def resolve_for(kind: str, registry: Mapping[str, Callable[..., T]], spec: Any, expected: Any, *subjects: Any) -> T:
    """Make a part that is bound to other objects, such as the actions of a search problem.

    Args:
        kind: The kind of part, for error messages: ``"action"``.
        registry: Name -> class; the subjects are its first arguments.
        spec: A name; a mapping with ``"name"`` and options; or a callable of the subjects that returns the part: a
            class, a function, or a `functools.partial` of one.
        expected: The base class of such parts.
        subjects: The objects that the part is bound to.

    Raises:
        ValueError: The name is unknown, an option is unknown or missing, or the part has another type.
    """
    if isinstance(spec, str | Mapping):
        return bind_options(kind, registry, spec, positional=len(subjects))(*subjects)
    maker = spec.func if isinstance(spec, functools.partial) else spec
    fits = issubclass(maker, expected) if isinstance(maker, type) else inspect.isroutine(maker)
    made = spec(*subjects) if fits else spec
    if not fits or not isinstance(made, expected):
        raise ValueError(
            f"{kind}: must be a name, a mapping with 'name' and options, or a class of {expected.__name__} (with "
            f"options: functools.partial of it), got {made!r}"
        )
    part: T = made
    return part


def bind_options(
    kind: str, registry: Mapping[str, Callable[..., T]], spec: str | Mapping[Any, Any], positional: int
) -> Callable[..., T]:
    """Return the registered class or factory of a name, with its options bound.

    Args:
        kind: The kind of part, for error messages: ``"reward"``.
        registry: Name -> class or factory.
        spec: A name, or a mapping with ``"name"`` and options.
        positional: Number of leading arguments that are not options; the caller passes them later.

    Raises:
        ValueError: The name is unknown, or an option is unknown or missing.
    """
    options: dict[str, Any] = {"name": spec} if isinstance(spec, str) else {str(key): spec[key] for key in spec}
    name = options.pop("name", None)
    if name not in registry:
        known = ", ".join(sorted(registry))
        if name is None:
            raise ValueError(f"{kind}: {spec!r} lacks 'name'; known names: {known}")
        raise ValueError(f"{kind}: no {kind} is named {name!r}; known names: {known}")
    valid = dict([*inspect.signature(registry[name]).parameters.items()][positional:])
    unknown = sorted(set(options) - set(valid))
    missing = [key for key, parameter in valid.items() if parameter.default is parameter.empty and key not in options]
    if unknown or missing:
        mistake = f"has no option {unknown[0]!r}" if unknown else f"needs the option {missing[0]!r}"
        raise ValueError(f"{kind} {name!r} {mistake}; its options are {', '.join(valid) or 'none'}")
    return functools.partial(registry[name], **options)
