"""Matrices in eight bits."""

from __future__ import annotations

import copy
import logging
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from shrinkml_env.compression.protocol import CompressibleModel, require_model
from shrinkml_env.compression.storage import INT8_MAX, Storage, set_int8_scales, storages

__all__ = ["quantise"]

ModelT = TypeVar("ModelT", bound=CompressibleModel)


@torch.no_grad()
def quantise(model: ModelT) -> ModelT:
    """A copy of a model whose matrices are stored in int8: the last step, after compression and training.

    By torchao's quantiser: symmetric, one scale for each row (output channel), its largest magnitude over 127; no value
    moves by more than half of it. Dense matrices, kernels of convolutions and both factors are quantised wherever that
    makes the file smaller. Biases and all else of one dimension stay as they are. The copy computes in float32 with the
    values that its file stands for, so it takes as long as the model does. To quantise it again changes nothing.

    Args:
        model: Compressed or not, rounded to its `storage_dtype`.

    Raises:
        ImportError: torchao is not installed.
        ValueError: The model is none, or a matrix holds NaN or infinity.
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
    """Whether a parameter is a matrix that takes fewer bytes with int8 numbers and float32 scales."""
    matrix = tensor.is_floating_point() and tensor.dim() >= 2
    return matrix and tensor.numel() + 4 * len(tensor) < tensor.numel() * dtype.itemsize


def _quantise(tensor: Tensor, quantiser: Any) -> tuple[Tensor, Tensor]:
    """Int8 numbers in a matrix's shape, and scales, (rows,) float32 on the CPU."""
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
    """Torchao's primitives, without what it logs about its kernels for GPUs when there is none."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from torchao.quantization import quant_primitives
    except ModuleNotFoundError as error:
        raise ImportError(
            "quantisation needs the package torchao: pip install 'shrinkml-env[quantise]', or in a"
            " checkout pip install -c constraints.txt -e '.[quantise]'"
        ) from error
    finally:
        logging.disable(disabled)
    return quant_primitives
