"""Discovery of a model's layers, and of a compressed model's factors and ranks."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import cast

from torch import nn

from shrinkml_env.compression.factors import Factors
from shrinkml_env.compression.layers import FactorForm, Layer, Matrix, arrange_layers
from shrinkml_env.compression.modules import LowRank, module_kind, module_matrices, why_dense
from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.compression.tensors import has_prefix

__all__ = ["arranged_layers", "factors_of", "find_layers", "form_of", "ranks_of"]

_PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("linear_q", "linear_k", "linear_v"))
_OUTPUTS = ("out_proj", "o_proj", "linear_out")
"""The names of an attention module's input and output projections in common libraries."""


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def find_layers(
    model: nn.Module, groups: Mapping[str, Sequence[str]] | None = None, exclude: Sequence[str] = ()
) -> tuple[Layer, ...]:
    """Return the compressible layers of a model in module order; for a compressed model, those of its original.

    The projections of an attention module are one layer, named by the module's path. Attention modules are
    `nn.MultiheadAttention`, and modules whose query, key, value and output projections have common names. A tied weight
    (of an embedding and an output layer, say) is one matrix, named after its first occurrence, if the modules of all
    its occurrences can be compressed; otherwise it is omitted. A layer that no rank makes smaller is omitted as well.
    A module that must stay dense because it was modified (a weight that is computed from others, an own `forward`)
    causes a warning.

    Args:
        model: Any module.
        groups: Layer name -> paths of the modules that share its rank, in the order in which they are applied. Every
            other module is a layer by itself, named by its path, or part of its attention module.
        exclude: Prefixes of module paths to omit.

    Raises:
        ValueError: A group names a module that cannot be compressed or that is grouped twice, mixes kinds, or has the
            name of a module outside it.
    """
    names = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    places = Counter(
        _tie_key(module, matrix.name)
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
            identity = _tie_key(module, matrix.name)
            if identity in whole:
                whole.remove(identity)  # its other occurrences are tied to this one
                matrices.append(replace(matrix, name=_join(path, matrix.name)))
        if matrices:
            found[path] = kind, matrices

    groups = _attention_groups(model, found, groups or {})
    group_of: dict[str, str] = {}
    for name, paths in groups.items():
        for path in paths:
            if path not in found:
                raise ValueError(f"group {name!r}: {path!r} is not a module with matrices that can be factored")
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


def _tie_key(module: nn.Module, name: str) -> int:
    """Return the id of the parameter that holds a module's matrix, or its U; tied matrices have the same id."""
    return id(module._parameters[name if name in module._parameters else f"{name}_u"])


def _attention_groups(
    model: nn.Module, found: Container[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    """Return the groups, and in addition one for each attention module that no group contains a part of."""
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
    """Return the ranks of a model's factored matrices: matrix or stack name -> rank, in order of `arranged_layers`."""
    factors = factors_of(model)
    return {
        matrix.name: len(factors[matrix.blocks[0].name].v)
        for layer in (arranged_layers(model) if factors else ())
        for matrix in layer.matrices
        if matrix.blocks[0].name in factors
    }


def arranged_layers(model: CompressibleModel) -> tuple[Layer, ...]:
    """Return a model's layers in the form of its factors, with matrices that share a right factor joined into stacks.

    Raises:
        ValueError: The model's factors have different forms.
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


def form_of(model: CompressibleModel) -> FactorForm:
    """Return the form of a model's factors, ``"factors"`` if it has none.

    Raises:
        ValueError: The factors have different forms.
    """
    return next((matrix.form for layer in arranged_layers(model) for matrix in layer.matrices), "factors")


def factors_of(model: CompressibleModel) -> dict[str, Factors]:
    """Return the factors of a model's factored matrices: matrix name -> factors."""
    return {
        _join(path, name): module.factors(name)
        for path, module in cast(nn.Module, model).named_modules()
        if isinstance(module, LowRank)
        for name in module.ranks
    }
