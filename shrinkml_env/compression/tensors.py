"""The tensors that inference uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from shrinkml_env.compression.protocol import CompressibleModel

__all__ = ["device_of", "has_prefix", "inference_tensors"]


def has_prefix(name: str, prefixes: Sequence[str]) -> bool:
    """Return whether a dotted name is a prefix or lies below one: "ctc" covers "ctc.weight", not "ctc2.weight"."""
    return any(f"{name}.".startswith(f"{prefix.rstrip('.')}.") for prefix in prefixes)


def inference_tensors(model: CompressibleModel) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers that inference uses: name -> the tensor itself, tied ones once."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in cast(nn.Module, model).state_dict(keep_vars=True).items():
        if id(tensor) not in seen and not has_prefix(name, model.training_only):
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


def device_of(model: CompressibleModel) -> str:
    """Return the type of the device that holds a model: ``"cpu"``, ``"cuda"``."""
    return next(iter(inference_tensors(model).values())).device.type
