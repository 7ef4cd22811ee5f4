"""Conversion of a compressed model's factors from one form into the other."""

from __future__ import annotations

import copy
from typing import TypeVar, cast, get_args

import torch
from torch import Tensor, nn

from shrinkml_env.compression.canonical import one_thread
from shrinkml_env.compression.compress import part_factors
from shrinkml_env.compression.discovery import arranged_layers, factors_of
from shrinkml_env.compression.factors import Factors, expand_right, order_dtype
from shrinkml_env.compression.layers import FactorForm
from shrinkml_env.compression.modules import LowRank
from shrinkml_env.compression.number_formats import int8_scales
from shrinkml_env.compression.pivoting import column_order, interpolation
from shrinkml_env.compression.protocol import CompressibleModel, require_model
from shrinkml_env.compression.svd import require_not_compiled

__all__ = ["change_form"]

ModelT = TypeVar("ModelT", bound=CompressibleModel)


@torch.no_grad()
def change_form(model: ModelT, form: FactorForm) -> ModelT:
    """Return a copy of a compressed model with the same ranks and, up to rounding, the same products in another form.

    The copy shares no memory with `model`. In pivoting form a model has fewer parameters: r^2 less for each right
    factor of rank r. Two factors train better, since a step of an optimiser on T moves many columns of the product at
    once; so a model in pivoting form is best trained as two factors, and changed back before it is saved.

    Factors are computed anew in float64, also if the model has this form already: U and V are the singular vectors of
    the product, each multiplied by the square root of its singular value, and T is chosen by `column_order`. To measure
    the model as it will be saved, call `round_to_storage` first.

    Args:
        model: A compressed model; of an uncompressed one the result is a copy.
        form: ``"factors"`` or ``"pivoting"``. As two factors, a matrix whose rank is above its break-even rank has no
            fewer parameters than a dense one: the model can be trained, but must be changed back to be saved.

    Raises:
        ValueError: The argument is not a model, the form is unknown, the model or a part of it is quantised or
            compiled, or a factor holds NaN or infinity.
    """
    require_model(model)
    require_not_compiled(cast(nn.Module, model))
    if form not in get_args(FactorForm):
        raise ValueError(f"form must be {' or '.join(map(repr, get_args(FactorForm)))}, got {form!r}")
    if int8_scales(model):
        raise ValueError("this model is quantised: change the one that it was made from, and quantise the result")
    changed = copy.deepcopy(model)
    old = factors_of(changed)
    # id of an old factor -> its successor: stacks share V, and tied matrices share both factors.
    parameters: dict[int, nn.Parameter] = {}
    orders: dict[int, Tensor | None] = {}
    with one_thread():
        for matrix in (matrix for layer in arranged_layers(changed) for matrix in layer.matrices):
            if matrix.blocks[0].name not in old:
                continue
            parts = [old[block.name] for block in matrix.blocks]
            u = torch.cat([part.u.double() for part in parts])
            v = expand_right(parts[0].v.double(), parts[0].order)
            if not (u.isfinite().all() and v.isfinite().all()):
                raise ValueError(f"matrix {matrix.name!r} holds NaN or infinity")
            new = _balanced(u, v) if form == "factors" else _pivoting(u, v)
            for name, factors in part_factors(matrix, new).items():
                for before, after in zip(old[name][:2], factors[:2], strict=True):
                    parameters[id(before)] = nn.Parameter(after.to(before.dtype, copy=True), before.requires_grad)
                orders[id(old[name].v)] = new.order
    for module in cast(nn.Module, changed).modules():
        if isinstance(module, LowRank):
            for name in module.ranks:
                u, v, _ = module.factors(name)
                module.hold(name, Factors(parameters[id(u)], parameters[id(v)], orders[id(v)]))
    return changed


def _balanced(u: Tensor, v: Tensor) -> Factors:
    """Return two factors with the product's singular vectors, each times the square root of its singular value."""
    (left, r_left), (right, r_right) = torch.linalg.qr(u), torch.linalg.qr(v.T)
    inner_left, values, inner_right = torch.linalg.svd(r_left @ r_right.T)
    roots = values.sqrt()
    return Factors((left @ inner_left) * roots, roots[:, None] * (inner_right @ right.T))


def _pivoting(u: Tensor, v: Tensor) -> Factors:
    """Return the pivoting form of the product."""
    # Orthonormal rows span what V spans, and are of full rank where V is not.
    basis, coefficients = torch.linalg.qr(v.T)
    rows = basis.T.cpu()
    order = column_order(rows)
    columns = u @ coefficients.T @ rows[:, order[: len(v)]].to(u.device)
    return Factors(columns, interpolation(rows, order).to(u.device), order.to(order_dtype(len(order))))
