"""The registry of model classes, by the architecture names in saved files."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from shrinkml_env.compression.protocol import CompressibleModel

__all__ = ["architectures", "register_architecture"]

architectures: dict[str, type[CompressibleModel]] = {}
"""Architecture name -> class; filled by `register_architecture`."""

ClassT = TypeVar("ClassT", bound=type[CompressibleModel])


def register_architecture(name: str) -> Callable[[ClassT], ClassT]:
    """Return a class decorator that registers a class of models, so that `load_compressed` can load them.

    Args:
        name: The name in saved files; it becomes the class's attribute `architecture`.

    Raises:
        ValueError: Another class has the name.
    """

    def register(cls: ClassT) -> ClassT:
        known = architectures.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"architecture {name!r} is registered already: {known.__module__}.{known.__qualname__}")
        cls.architecture = name
        architectures[name] = cls
        return cls

    return register
