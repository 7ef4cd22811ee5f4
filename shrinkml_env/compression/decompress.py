"""From a compressed model back to a dense one."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import nn

from shrinkml_env.compression.factors import Factors
from shrinkml_env.compression.modules import LowRank
from shrinkml_env.compression.protocol import CompressibleModel

__all__ = ["decompress"]

ModelT = TypeVar("ModelT", bound=CompressibleModel)


@torch.no_grad()
def decompress(model: ModelT) -> ModelT:
    """A dense model of the same class whose weights are the products U V, so that it can be compressed again.

    It computes the same function up to rounding, and shares no memory with `model`. The products are taken in float64
    and rounded once, to float32. Numbers of float16 cannot hold them, so the result's `storage_dtype` is float32: it is
    saved exactly, in more bytes. Where the compressed model's format is enough (a relative error of 2^-11 in float16),
    set `storage_dtype` and call `round_to_storage` before anything is measured.

    Args:
        model: A compressed model; of an uncompressed one the result is a copy.
    """
    with torch.random.fork_rng(devices=[]):  # The random weights of a new model must not shift the caller's numbers.
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
