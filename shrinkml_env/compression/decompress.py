"""Conversion of a compressed model into a dense one."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import nn

from shrinkml_env.compression.factors import Factors
from shrinkml_env.compression.modules import LowRank
from shrinkml_env.compression.protocol import CompressibleModel, require_model
from shrinkml_env.compression.svd import require_not_compiled

__all__ = ["decompress"]

ModelT = TypeVar("ModelT", bound=CompressibleModel)


@torch.no_grad()
def decompress(model: ModelT) -> ModelT:
    """Return a dense model of the same class whose weights are the products U V, so that it can be compressed again.

    It computes the same function up to rounding, and shares no memory with `model`. The products are computed in
    float64 and rounded to float32. Since float16 cannot represent them, the result's `storage_dtype` is float32, which
    takes more bytes. If the precision of the compressed model's format suffices (a relative error of 2^-11 for
    float16), set `storage_dtype` and call `round_to_storage` before measuring the model.

    Args:
        model: A compressed model; for an uncompressed one the result is a copy.

    Raises:
        ValueError: The argument is not a model, or it or a part of it is compiled.
    """
    require_model(model)
    require_not_compiled(cast(nn.Module, model))
    with torch.random.fork_rng(devices=[]):  # initialising a model must not advance the caller's random numbers
        dense = type(model).from_config(model.to_config())
    source, target = cast(nn.Module, model), cast(nn.Module, dense)
    device = next(source.parameters()).device
    values = dict(source.state_dict())
    for path, module in source.named_modules(remove_duplicate=False):
        if isinstance(module, LowRank):
            for name in module.ranks:
                full = f"{path}.{name}" if path else name
                u, v, order = module.factors(name)
                for suffix in "u", "v", "order":
                    values.pop(f"{full}_{suffix}", None)
                product = Factors(u.double(), v.double(), order).product
                values[full] = product.to(u.dtype).view(module.shape(name))
    target.to(device).load_state_dict(values)
    target.train(source.training)
    dense.storage_dtype = torch.float32
    return dense
