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
"""The largest int8 magnitude; the range is symmetric, so -128 is not used."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The storage format of one tensor.

    Attributes:
        dtype: dtype of the stored numbers.
        scales: Factor of each row of int8 numbers, (rows,) float32; None for every other format.
    """

    dtype: torch.dtype
    scales: Tensor | None = None

    def encode(self, tensor: Tensor) -> Tensor:
        """Round a tensor to the format; values beyond its range give undefined numbers (see `covers`)."""
        if self.scales is None:
            return tensor.to(self.dtype)
        return (tensor / self._column(tensor)).round().clamp(-INT8_MAX, INT8_MAX).to(self.dtype)

    def decode(self, stored: Tensor) -> Tensor:
        """Return the values of stored numbers; with scales, one float32 product each, equal on every machine."""
        return stored if self.scales is None else stored * self._column(stored)

    def covers(self, tensor: Tensor) -> bool:
        """Return whether all values are finite and within the format's range."""
        if self.scales is None:
            return bool(tensor.to(self.dtype).isfinite().all())
        return bool(((tensor / self._column(tensor)).abs() <= INT8_MAX + 0.5).all())

    def represents(self, tensor: Tensor) -> bool:
        """Return whether `encode` is lossless for this tensor."""
        return torch.equal(self.decode(self.encode(tensor)).to(tensor.dtype), tensor)

    def _column(self, tensor: Tensor) -> Tensor:
        assert self.scales is not None
        return self.scales.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))


def int8_scales(model: CompressibleModel) -> Mapping[str, Tensor]:
    """Return the scales of matrices that are stored in int8: name -> (rows,); empty if the model is not quantised."""
    scales: Mapping[str, Tensor] = getattr(model, "_int8_scales", {})
    return scales


def set_int8_scales(model: CompressibleModel, scales: Mapping[str, Tensor]) -> None:
    """Set the matrices that are stored in int8: name -> scales, (rows,) float32 on the CPU; values do not change."""
    vars(model)["_int8_scales"] = dict(scales)


def storages(model: CompressibleModel) -> dict[str, tuple[Tensor, Storage]]:
    """Return the storage formats of a model's `inference_tensors`: name -> (tensor, storage).

    Quantised matrices are stored in int8, other floating-point parameters in the model's `storage_dtype`, buffers in
    their own dtype.
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
    """Return the first dtype of float16, bfloat16 and float32 that represents all tensors exactly."""
    tensors = list(tensors)
    for dtype in (torch.float16, torch.bfloat16):
        if all(Storage(dtype).represents(tensor) for tensor in tensors):
            return dtype
    return torch.float32


@torch.no_grad()
def round_to_storage(model: CompressibleModel) -> None:
    """Round a model's parameters, in place, to its `storage_dtype`, or to int8 with their scales.

    Call it after training and before measuring, so that the measured model equals the saved one.

    Raises:
        ValueError: A parameter is not finite, or is outside the format's range.
    """
    for name, (tensor, storage) in storages(model).items():
        if not storage.covers(tensor):
            raise ValueError(f"parameter {name!r} holds NaN, infinity or values beyond the range of {storage.dtype}")
        tensor.copy_(storage.decode(storage.encode(tensor)))


def require_storable(model: CompressibleModel) -> None:
    """Check that a saved file would represent this model exactly.

    Raises:
        ValueError: A parameter is not finite, or the model's `storage_dtype`, or int8, cannot represent it exactly.
    """
    for name, (tensor, storage) in storages(model).items():
        if isinstance(tensor, nn.Parameter) and not tensor.isfinite().all():
            raise ValueError(f"parameter {name!r} holds NaN or infinity")
        if not storage.represents(tensor):
            raise ValueError(
                f"parameter {name!r} holds values that {storage.dtype} does not represent exactly: call"
                " round_to_storage(model), then measure and save it"
            )
