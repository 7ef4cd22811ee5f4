"""Finding the layers of a model, and the ranks of a compressed one."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import cast

from torch import nn

from shrinkml_env.compression.factors import Factors
from shrinkml_env.compression.layers import Layer, Matrix, arrange_layers
from shrinkml_env.compression.modules import LowRank, module_kind, module_matrices, why_dense
from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.compression.tensors import has_prefix

__all__ = ["arranged_layers", "factors_of", "find_layers", "ranks_of"]

_PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("linear_q", "linear_k", "linear_v"))
_OUTPUTS = ("out_proj", "o_proj", "linear_out")
"""What the usual libraries call the projections of an attention module."""


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def find_layers(
    model: nn.Module, groups: Mapping[str, Sequence[str]] | None = None, exclude: Sequence[str] = ()
) -> tuple[Layer, ...]:
    """The compressible layers of a model, or of the original of a compressed one, in module order.

    The projections of an attention module are one layer, named by its path: `nn.MultiheadAttention`, and modules whose
    query, key, value and output projections have the usual names. A matrix whose parameter has several names (tied
    weights, as of an embedding and an output layer) is one matrix, named after its first place, if all of its places
    can be compressed; otherwise it is left out, since factors in one place would not remove it from the others. So is
    a layer that no rank makes smaller. A module that stays dense because of what was done to it (a weight that is
    computed from others, a `forward` of its own) is named in a warning.

    Args:
        model: Any module.
        groups: Layer name -> paths of the modules that share its rank, in the order in which they are applied. Every
            other module is a layer of its own, named by its path, or part of its attention module.
        exclude: Prefixes of module paths to leave out.

    Raises:
        ValueError: A group names a module that cannot be compressed or that is grouped twice, mixes kinds, or has the
            name of a module outside it.
    """
    names = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    places = Counter(
        _identity(module, matrix.name)
        for path, module in model.named_modules(remove_duplicate=False)
        if not has_prefix(path, exclude)
        for matrix in module_matrices(module)
    )
    whole = {identity for identity, count in places.items() if count == names[identity]}
    found: dict[str, tuple[str, list[Matrix]]] = {}
    for path, module in model.named_modules():
        if has_prefix(path, exclude):
            continue
        reason = why_dense(module)
        if reason is not None:
            warnings.warn(f"module {path!r} ({type(module).__name__}) stays dense: {reason}", stacklevel=2)
        kind = module_kind(module)
        if kind is None:
            continue
        matrices = []
        for matrix in module_matrices(module):
            identity = _identity(module, matrix.name)
            if identity in whole:
                whole.remove(identity)  # Its other places do not count again.
                matrices.append(replace(matrix, name=_join(path, matrix.name)))
        if matrices:
            found[path] = kind, matrices

    groups = _attention_groups(model, found, groups or {})
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


def _identity(module: nn.Module, name: str) -> int:
    """What a module's matrix, dense or factored, shares with the matrices that it is tied to, and with no others."""
    return id(module._parameters[name if name in module._parameters else f"{name}_u"])


def _attention_groups(
    model: nn.Module, found: Container[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    """The groups, and one for each attention module of which they hold nothing."""
    grouped = {path for paths in groups.values() for path in paths}
    complete = dict(groups)
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            parts = [path, _join(path, "out_proj")]
        else:
            inputs = next((names for names in _PROJECTIONS if all(name in module._modules for name in names)), ())
            parts = [_join(path, name) for name in (*inputs, *_OUTPUTS)] if inputs else []
        parts = [part for part in parts if part in found]
        if path and parts and not grouped.intersection(parts):
            complete.setdefault(path, parts)
    return complete


def ranks_of(model: CompressibleModel) -> dict[str, int]:
    """Return matrix or stack name -> rank, of what a model holds as factors, in forward order of `arranged_layers`."""
    factors = factors_of(model)
    return {
        matrix.name: len(factors[matrix.blocks[0].name].v)
        for layer in (arranged_layers(model) if factors else ())
        for matrix in layer.matrices
        if matrix.blocks[0].name in factors
    }


def arranged_layers(model: CompressibleModel) -> tuple[Layer, ...]:
    """Return a model's layers with the form of its factors, and with the stacks of matrices that share a right factor.

    Raises:
        ValueError: Some of its factors are in one form and some in another.
    """
    factors = factors_of(model)
    forms = {pair.form for pair in factors.values()}
    if len(forms) > 1:
        raise ValueError(f"the model holds factors in several forms, {' and '.join(sorted(forms))}: give all one form")
    shared: dict[int, list[str]] = {}
    for layer in model.layers if factors else ():
        for matrix in layer.matrices:
            if matrix.name in factors:
                shared.setdefault(id(factors[matrix.name].v), []).append(matrix.name)
    groups = [names for names in shared.values() if len(names) > 1]
    return arrange_layers(model.layers, forms.pop(), groups) if factors else model.layers


def factors_of(model: CompressibleModel) -> dict[str, Factors]:
    """Return matrix name -> what holds it, of a model's factored matrices."""
    return {
        _join(path, name): module.factors(name)
        for path, module in cast(nn.Module, model).named_modules()
        if isinstance(module, LowRank)
        for name in module.ranks
    }
