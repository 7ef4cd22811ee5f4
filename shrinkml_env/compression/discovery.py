"""Finding the layers of a model, and the ranks of a compressed one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from torch import nn

from shrinkml_env.compression.layers import Layer, Matrix
from shrinkml_env.compression.modules import LowRank, module_kind, module_matrices
from shrinkml_env.compression.protocol import CompressibleModel

__all__ = ["find_layers", "has_prefix", "ranks_of"]


def has_prefix(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted name is one of the prefixes or lies below one: "ctc" covers "ctc.weight", not "ctc2.weight"."""
    return any(f"{name}.".startswith(f"{prefix.rstrip('.')}.") for prefix in prefixes)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def find_layers(
    model: nn.Module, groups: Mapping[str, Sequence[str]] | None = None, exclude: Sequence[str] = ()
) -> tuple[Layer, ...]:
    """The compressible layers of a model, or of the original of a compressed one, in module order.

    A matrix whose parameter has several names (tied weights) is left out: factors in one place would not remove it
    from the others. So is a layer that no rank makes smaller.

    Args:
        model: Any module.
        groups: Layer name -> paths of the modules that share its rank, in the order in which they are applied. Every
            other module is a layer of its own, named by its path.
        exclude: Prefixes of module paths to leave out.

    Raises:
        ValueError: A group names a module that cannot be compressed or that is grouped twice, mixes kinds, or has the
            name of a module outside it.
    """
    names = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    found: dict[str, tuple[str, list[Matrix]]] = {}
    for path, module in model.named_modules():
        kind = module_kind(module)
        if kind is None or has_prefix(path, exclude):
            continue
        parameters = dict(module.named_parameters(recurse=False))
        matrices = [
            replace(matrix, name=_join(path, matrix.name))
            for matrix in module_matrices(module)
            if matrix.name not in parameters or names[id(parameters[matrix.name])] == 1
        ]
        if matrices:
            found[path] = kind, matrices

    groups = groups or {}
    group_of: dict[str, str] = {}
    for name, paths in groups.items():
        for path in paths:
            if path not in found:
                raise ValueError(f"group {name!r}: {path!r} is no module with matrices that can be factored")
            if path in group_of:
                raise ValueError(f"module {path!r} is grouped twice, in {group_of[path]!r} and in {name!r}")
            group_of[path] = name

    layers: list[Layer] = []
    for name in dict.fromkeys(group_of.get(path, path) for path in found):
        if name in groups and name in found and group_of.get(name) != name:
            raise ValueError(f"group {name!r} has the name of a module outside it")
        parts = [found[path] for path in groups.get(name, (name,))]
        if len({kind for kind, _ in parts}) > 1:
            raise ValueError(f"group {name!r} must hold modules of one kind")
        layer = Layer(name, kind=parts[0][0], matrices=tuple(matrix for _, matrices in parts for matrix in matrices))
        if layer.break_even:
            layers.append(layer)
    return tuple(layers)


def ranks_of(model: CompressibleModel) -> dict[str, int]:
    """Matrix name -> rank, of a model's factored matrices, in forward order; empty for an uncompressed model."""
    ranks = {
        _join(path, name): rank
        for path, module in cast(nn.Module, model).named_modules()
        if isinstance(module, LowRank)
        for name, rank in module.ranks.items()
    }
    order = [matrix.name for layer in model.layers for matrix in layer.matrices] if ranks else []
    return {name: ranks[name] for name in order if name in ranks}
