"""Conversion of a compressed model's factors from one form into the other."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from shrinkml_env.compression.compress import part_factors, replace_matrices
from shrinkml_env.compression.decompress import decompress
from shrinkml_env.compression.discovery import arranged_layers, factors_of
from shrinkml_env.compression.factors import Factors, expand_right, order_dtype
from shrinkml_env.compression.layers import FactorForm
from shrinkml_env.compression.pivoting import column_order, interpolation
from shrinkml_env.compression.protocol import CompressibleModel, require_model
from shrinkml_env.compression.storage import int8_scales

__all__ = ["change_form"]

ModelT = TypeVar("ModelT", bound=CompressibleModel)


@torch.no_grad()
def change_form(model: ModelT, form: FactorForm) -> ModelT:
    """Return a copy of a compressed model with the same ranks and the same products in another form of factors.

    In pivoting form a model has fewer parameters, by the square of each rank. As two factors, U and V have the singular
    values of the product in equal parts, which trains better: an optimiser's step on T moves many columns of the
    product at once. So a model in pivoting form is best trained as two factors, and changed back before it is saved.

    New factors are computed in float64 and rounded to float32. To measure the model as it will be saved, call
    `round_to_storage` first. It shares no memory with `model`.

    Args:
        model: A compressed model; of an uncompressed one the result is a copy.
        form: ``"pivoting"``, or ``"factors"``: as two factors, matrices whose rank is above their break-even rank have
            more parameters than dense ones. A model with such matrices can be trained, but not saved.

    Raises:
        ValueError: The argument is not a model, the form is unknown, or the model is quantised.
    """
    require_model(model)
    if form not in ("factors", "pivoting"):
        raise ValueError(f"form must be 'factors' or 'pivoting', got {form!r}")
    if int8_scales(model):
        raise ValueError("this model is quantised: change the one that it was made from, and quantise the result")
    held = factors_of(model)
    changed: dict[str, Factors] = {}
    for layer in arranged_layers(model):
        for matrix in layer.matrices:
            parts = [held[block.name] for block in matrix.blocks if block.name in held]
            if parts:
                u = torch.cat([part.u.double() for part in parts])
                v = expand_right(parts[0].v.double(), parts[0].order)
                changed |= part_factors(matrix, _balanced(u, v) if form == "factors" else _pivoting(u, v))
    dense = decompress(model)
    dense.storage_dtype = model.storage_dtype
    return replace_matrices(dense, changed)


def _balanced(u: Tensor, v: Tensor) -> Factors:
    """Return the product's singular vectors, each multiplied by the square root of its singular value."""
    (left, upper), (right, lower) = torch.linalg.qr(u), torch.linalg.qr(v.T)
    inner_left, values, inner_right = torch.linalg.svd(upper @ lower.T)
    roots = values.sqrt()
    return Factors(((left @ inner_left) * roots).float(), (roots[:, None] * (inner_right @ right.T)).float())


def _pivoting(u: Tensor, v: Tensor) -> Factors:
    # Orthonormal rows span what V spans, and are of full rank where V is not.
    basis, coefficients = torch.linalg.qr(v.T)
    rows = basis.T.cpu()
    order = column_order(rows)
    columns = u @ coefficients.T @ rows[:, order[: len(v)]].to(u.device)
    return Factors(columns.float(), interpolation(rows, order).float(), order.to(order_dtype(len(order))))
