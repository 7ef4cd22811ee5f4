"""Quantisation of matrices to int8."""

from __future__ import annotations

import copy
import logging
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from shrinkml_env.compression.number_formats import INT8_MAX, Storage, set_int8_scales, storages
from shrinkml_env.compression.protocol import CompressibleModel, require_model

__all__ = ["quantise"]

ModelT = TypeVar("ModelT", bound=CompressibleModel)


@torch.no_grad()
def quantise(model: ModelT) -> ModelT:
    """Return a copy of a model whose matrices are stored in int8: the last step, after compression and training.

    torchao quantises symmetrically, with one scale for each row (output channel): the row's largest magnitude over 127.
    Rounding changes a value by at most half the scale. Dense matrices, kernels of convolutions and both factors are
    quantised if that makes the file smaller; biases and other one-dimensional parameters are not. The copy computes in
    float32 with the dequantised values, so it is as fast as the model. Quantising it again changes nothing.

    Args:
        model: Compressed or not, rounded to its `storage_dtype`.

    Raises:
        ImportError: torchao is not installed.
        ValueError: The argument is not a model, or a matrix holds NaN or infinity.
    """
    require_model(model)
    quantiser = _torchao()
    quantised = copy.deepcopy(model)
    scales = {}
    for name, (tensor, storage) in storages(quantised).items():
        if storage.scales is not None and storage.represents(tensor):
            scales[name] = storage.scales
        elif isinstance(tensor, nn.Parameter) and _gains(tensor, model.storage_dtype):
            if not tensor.isfinite().all():
                raise ValueError(f"parameter {name!r} holds NaN or infinity")
            numbers, scales[name] = _quantise(tensor, quantiser)
            tensor.copy_(Storage(torch.int8, scales[name]).decode(numbers))
    set_int8_scales(quantised, scales)
    return quantised


def _gains(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Return whether a parameter is a matrix that takes fewer bytes as int8 numbers with float32 scales."""
    matrix = tensor.is_floating_point() and tensor.dim() >= 2
    return matrix and tensor.numel() + 4 * len(tensor) < tensor.numel() * dtype.itemsize


def _quantise(tensor: Tensor, quantiser: Any) -> tuple[Tensor, Tensor]:
    """Quantise a matrix: return int8 numbers in its shape, and scales, (rows,) float32 on the CPU."""
    rows = tensor.float().flatten(1)
    row = (1, rows.shape[1])
    scales, zeros = quantiser.choose_qparams_affine(
        rows,
        quantiser.MappingType.SYMMETRIC,
        row,
        torch.int8,
        quant_min=-INT8_MAX,
        quant_max=INT8_MAX,
        eps=torch.finfo(torch.float32).tiny,
        scale_dtype=torch.float32,
    )
    numbers = quantiser.quantize_affine(rows, row, scales, zeros, torch.int8, -INT8_MAX, INT8_MAX)
    return numbers.view(tensor.shape), scales.cpu()


def _torchao() -> Any:
    """Import torchao's primitives, without its log messages about missing GPU kernels."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from torchao.quantization import quant_primitives
    except ModuleNotFoundError as error:
        raise ImportError("quantisation needs the package torchao: pip install 'shrinkml-env[quantise]'") from error
    finally:
        logging.disable(disabled)
    return quant_primitives
