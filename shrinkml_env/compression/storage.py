"""The number formats in which a model's tensors are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.compression.tensors import inference_tensors

__all__ = [
    "INT8_MAX",
    "Storage",
    "exact_storage_dtype",
    "int8_scales",
    "require_storable",
    "round_to_storage",
    "set_int8_scales",
    "storages",
]

INT8_MAX = 127
"""Symmetric: -128 is not used."""


@dataclass(frozen=True, slots=True)
class Storage:
    """How one tensor is stored.

    Attributes:
        dtype: Of the stored numbers.
        scales: What the rows of int8 numbers are multiplied by, (rows,) float32; None for every other format.
    """

    dtype: torch.dtype
    scales: Tensor | None = None

    def encode(self, tensor: Tensor) -> Tensor:
        """The nearest numbers that the format has; those beyond its range mean nothing."""
        if self.scales is None:
            return tensor.to(self.dtype)
        return (tensor / self._column(tensor)).round().clamp(-INT8_MAX, INT8_MAX).to(self.dtype)

    def decode(self, stored: Tensor) -> Tensor:
        """What stored numbers stand for: one product of float32, the same on every machine, where there are scales."""
        return stored if self.scales is None else stored * self._column(stored)

    def covers(self, tensor: Tensor) -> bool:
        """Whether all values are finite and in the format's range."""
        if self.scales is None:
            return bool(tensor.to(self.dtype).isfinite().all())
        return bool(((tensor / self._column(tensor)).abs() <= INT8_MAX + 0.5).all())

    def represents(self, tensor: Tensor) -> bool:
        """Whether `encode` loses nothing."""
        return torch.equal(self.decode(self.encode(tensor)).to(tensor.dtype), tensor)

    def _column(self, tensor: Tensor) -> Tensor:
        assert self.scales is not None
        return self.scales.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))


def int8_scales(model: CompressibleModel) -> Mapping[str, Tensor]:
    """Name -> the scales of each matrix that is stored in int8; empty for a model that is not quantised."""
    scales: Mapping[str, Tensor] = getattr(model, "_int8_scales", {})
    return scales


def set_int8_scales(model: CompressibleModel, scales: Mapping[str, Tensor]) -> None:
    """Say which matrices are stored in int8, and with which scales, (rows,) float32 on the CPU; their values stay."""
    vars(model)["_int8_scales"] = dict(scales)


def storages(model: CompressibleModel) -> dict[str, tuple[Tensor, Storage]]:
    """Name -> tensor and storage, of a model's `inference_tensors`.

    Quantised matrices are stored in int8, all other floating-point parameters in the model's `storage_dtype`, buffers
    as they are.
    """
    scales = int8_scales(model)
    found = {}
    for name, tensor in inference_tensors(model).items():
        if name in scales:
            storage = Storage(torch.int8, scales[name])
        elif isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
            storage = Storage(model.storage_dtype)
        else:
            storage = Storage(tensor.dtype)
        found[name] = tensor, storage
    return found


def exact_storage_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """The smallest number format, of those that a file may have, that represents all tensors exactly."""
    tensors = list(tensors)
    for dtype in (torch.float16, torch.bfloat16):
        if all(Storage(dtype).represents(tensor) for tensor in tensors):
            return dtype
    return torch.float32


@torch.no_grad()
def round_to_storage(model: CompressibleModel) -> None:
    """Round a model's parameters, in place, to what its `storage_dtype`, or int8 with their scales, represents.

    To be called after training and before anything is measured, so that what is measured is what is saved.

    Raises:
        ValueError: A parameter is not finite, or lies outside the format's range.
    """
    for name, (tensor, storage) in storages(model).items():
        if not storage.covers(tensor):
            raise ValueError(f"parameter {name!r} holds NaN, infinity or values beyond the range of {storage.dtype}")
        tensor.copy_(storage.decode(storage.encode(tensor)))


def require_storable(model: CompressibleModel) -> None:
    """Check that a saved file would hold exactly this model.

    Raises:
        ValueError: The model's `storage_dtype`, or int8, does not represent a parameter exactly.
    """
    for name, (tensor, storage) in storages(model).items():
        if not storage.represents(tensor):
            if not tensor.isfinite().all():
                raise ValueError(f"parameter {name!r} holds NaN or infinity")
            raise ValueError(
                f"parameter {name!r} holds values that {storage.dtype} does not represent exactly: call"
                " round_to_storage(model), then measure and save it"
            )
