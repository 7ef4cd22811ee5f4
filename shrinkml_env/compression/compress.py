"""Compression of a model by given ranks."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from types import MethodType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from shrinkml_env.compression.discovery import ranks_of
from shrinkml_env.compression.factors import Factorisation, Factors
from shrinkml_env.compression.layers import Matrix, matrix_ranks
from shrinkml_env.compression.modules import LOW_RANK_MODULES, LowRank, module_matrices, take_over
from shrinkml_env.compression.number_formats import int8_scales
from shrinkml_env.compression.protocol import CompressibleModel, require_model
from shrinkml_env.compression.svd import SVD

__all__ = ["compress", "part_factors", "replace_matrices", "require_original"]

ModelT = TypeVar("ModelT", bound=CompressibleModel)


def compress(model: ModelT, ranks: Mapping[str, int], factorisation: Factorisation | None = None) -> ModelT:
    """Return a model of the same class and interface that holds factors in place of the matrices with low ranks.

    The original is not changed. For speed, parameters that are not factored share its memory: to train the result,
    train a `copy.deepcopy` of it.

    Args:
        model: An uncompressed model.
        ranks: Layer or matrix name -> rank in 1..max_rank; the names are those of the factorisation's `layers`.
            Matrices without an entry stay dense, as do matrices whose rank is above break-even.
        factorisation: A factorisation of this model; None computes a plain truncated SVD of the matrices to factor.

    Raises:
        ValueError: The argument is not a model, the model is compressed or quantised already, a name is unknown, or a
            rank is out of range.
    """
    require_original(model)
    layers = model.layers if factorisation is None else factorisation.layers
    factored = matrix_ranks(layers, ranks)
    if factorisation is None:
        factorisation = SVD(model, factored)
    matrices = {matrix.name: matrix for layer in layers for matrix in layer.matrices}
    factors: dict[str, Factors] = {}
    for name, rank in factored.items():
        factors |= part_factors(matrices[name], factorisation.factors(name, rank))
    return replace_matrices(model, factors)


def require_original(model: CompressibleModel) -> None:
    """Check that a model may be compressed.

    Raises:
        ValueError: The argument is not a model, or the model is compressed or quantised already.
    """
    require_model(model)
    if ranks_of(model):
        raise ValueError("this model is compressed already: compress the original, or decompress(model)")
    if int8_scales(model):
        raise ValueError("this model is quantised: compress the one that it was made from, and quantise the result")


def part_factors(matrix: Matrix, factors: Factors) -> dict[str, Factors]:
    """Split the factors of a stack into those of its parts, which share the right factor.

    Returns:
        Matrix name -> factors; for a single matrix, its own.
    """
    rows = torch.split(factors.u, [block.rows for block in matrix.blocks])
    parts = zip(matrix.blocks, rows, strict=True)
    return {block.name: Factors(u.contiguous(), factors.v, factors.order) for block, u in parts}


def replace_matrices(model: ModelT, factors: Mapping[str, Factors]) -> ModelT:
    """Return a copy of a model with factors in place of the named matrices; other parameters share their memory.

    A tensor that occurs in several factors becomes one shared parameter. Attributes and hooks of the copy that refer to
    modules of the model are changed to refer to the copy's modules.

    Raises:
        ValueError: A name is not a matrix of a module that can be compressed, or its factors have the wrong shape.
    """
    modules = dict(cast(nn.Module, model).named_modules(remove_duplicate=False))
    matrices = {id(module): [matrix.name for matrix in module_matrices(module)] for module in set(modules.values())}
    by_weight: dict[int, Factors] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, pair in factors.items():
        path, _, parameter = name.rpartition(".")
        module = modules.get(path)
        if module is None or parameter not in matrices[id(module)]:
            raise ValueError(f"matrix {name!r} does not belong to a module that can be compressed")
        weight = cast(nn.Parameter, module._parameters[parameter])
        # One parameter for each tensor, so that tied matrices share it.
        for factor in pair.u, pair.v:
            if id(factor) not in parameters:
                parameters[id(factor)] = nn.Parameter(factor.to(weight.device, weight.dtype), weight.requires_grad)
        by_weight[id(weight)] = Factors(parameters[id(pair.u)], parameters[id(pair.v)], pair.order)
    by_module = {
        id(module): {
            name: by_weight[id(module._parameters[name])]
            for name in matrices[id(module)]
            if id(module._parameters.get(name)) in by_weight
        }
        for module in modules.values()
    }
    copies: dict[int, nn.Module] = {}
    copied = _copy_tree(cast(nn.Module, model), by_module, copies, {})
    for module in copies.values():
        _redirect(module, copies)
    return cast(ModelT, copied)


def _copy_tree(
    module: nn.Module,
    factors: Mapping[int, Mapping[str, Factors]],
    modules: dict[int, nn.Module],
    tensors: dict[int, Tensor],
) -> nn.Module:
    """Copy modules and parameter objects, but not the parameters' memory.

    Args:
        module: The module to copy, with all modules below it.
        factors: id of a module -> parameter name -> factors that replace it.
        modules: id of a module -> its copy; extended by the call.
        tensors: id of a parameter or buffer -> its copy; extended by the call.
    """
    if id(module) in modules:
        return modules[id(module)]
    copied = module.__new__(type(module))
    take_over(copied, module)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            # A new object: moving or converting a module replaces the memory of its parameter objects.
            if id(parameter) not in tensors:
                tensors[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
            copied._parameters[name] = cast(nn.Parameter, tensors[id(parameter)])
    for name, buffer in module._buffers.items():
        if buffer is not None:
            # New memory: a forward pass may write to it, as batch normalisation does in training.
            copied._buffers[name] = tensors.setdefault(id(buffer), buffer.clone())
    if factors.get(id(module)):
        copied = LOW_RANK_MODULES[type(module)](copied, factors[id(module)])
    modules[id(module)] = copied
    for name, child in module._modules.items():
        if child is not None:
            copied._modules[name] = _copy_tree(child, factors, modules, tensors)
    if isinstance(copied, nn.RNNBase) and not isinstance(copied, LowRank):
        copied._flat_weights = [getattr(copied, name, None) for name in copied._flat_weights_names]
        copied._flat_weight_refs = [None if weight is None else weakref.ref(weight) for weight in copied._flat_weights]
    return copied


def _redirect(module: nn.Module, copies: Mapping[int, nn.Module]) -> None:
    """Replace references to original modules, in a copied module's plain attributes and hooks, by their copies."""
    for name, value in vars(module).items():
        if name in ("_parameters", "_buffers", "_modules"):
            continue
        if name.endswith("_hooks") and isinstance(value, dict):
            for key, hook in value.items():
                value[key] = _redirected(hook, copies)
        else:
            vars(module)[name] = _redirected(value, copies)


def _redirected(value: Any, copies: Mapping[int, nn.Module]) -> Any:
    """Return a value with modules replaced by their copies; also in lists, tuples, dicts, bound methods, partials."""
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if isinstance(value, MethodType):
        owner = _redirected(value.__self__, copies)
        if owner is value.__self__:
            return value
        return getattr(owner, value.__name__) if isinstance(owner, LowRank) else MethodType(value.__func__, owner)
    if type(value) is partial:
        parts = value.func, value.args, value.keywords
        function, arguments, keywords = (_redirected(part, copies) for part in parts)
        changed = function is not value.func or arguments is not value.args or keywords is not value.keywords
        return partial(function, *arguments, **keywords) if changed else value
    if type(value) in (list, tuple):
        found = [_redirected(part, copies) for part in value]
        return type(value)(found) if any(a is not b for a, b in zip(found, value, strict=True)) else value
    if type(value) is dict:
        entries = {key: _redirected(part, copies) for key, part in value.items()}
        return entries if any(entries[key] is not value[key] for key in value) else value
    return value
