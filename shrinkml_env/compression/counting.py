"""What a configuration costs, exactly: parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shrinkml_env.compression.discovery import ranks_of
from shrinkml_env.compression.layers import Layer, matrix_ranks
from shrinkml_env.compression.protocol import CompressibleModel, Workload
from shrinkml_env.compression.tensors import has_prefix, inference_tensors

__all__ = ["compressed_parameters", "count_macs", "count_parameters", "encoder_parameters"]


def count_parameters(model: CompressibleModel) -> int:
    """Numbers in a model, compressed or not: those of its floating-point `inference_tensors`, biases included."""
    return sum(tensor.numel() for tensor in inference_tensors(model).values() if tensor.is_floating_point())


def encoder_parameters(model: CompressibleModel) -> int:
    """Those of the encoder alone, which papers on encoder-decoder models report: the decoder works far less.

    Raises:
        ValueError: The model does not say which module that is, in an attribute `encoder_path`.
    """
    path = getattr(model, "encoder_path", "")
    tensors = [tensor for name, tensor in inference_tensors(model).items() if path and has_prefix(name, [path])]
    if not tensors:
        raise ValueError(f"{type(model).__name__} has no encoder_path that names a module with parameters")
    return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


def compressed_parameters(model: CompressibleModel, ranks: Mapping[str, int]) -> int:
    """What `count_parameters` would give of `compress(model, ranks)`, without making it.

    Args:
        model: The original, or any compressed form of it; with empty `ranks` the original's count.
        ranks: Layer or matrix name -> rank.

    Raises:
        ValueError: A name is unknown, or a rank is out of range.
    """
    original = count_parameters(model) + _saved(model.layers, ranks_of(model))
    return original - _saved(model.layers, matrix_ranks(model.layers, ranks))


def _saved(layers: Sequence[Layer], factored: Mapping[str, int]) -> int:
    """Sum of mn - r(m + n) over the factored matrices."""
    return sum(
        matrix.rows * matrix.columns - matrix.parameters(factored[matrix.name])
        for layer in layers
        for matrix in layer.matrices
        if matrix.name in factored
    )


def count_macs(layers: Sequence[Layer], ranks: Mapping[str, int], workload: Workload) -> int:
    """Multiply-adds of a configuration for a workload: r(m + n) or mn for each position of each matrix, and the rest.

    A row that is looked up costs rn in a factored matrix and nothing in a dense one.

    Raises:
        ValueError: A rank is bad, or the workload leaves out a matrix.
    """
    factored = matrix_ranks(layers, ranks)
    total = workload.other_macs
    for layer in layers:
        for matrix in layer.matrices:
            name = matrix.name
            if name not in workload.positions and name not in workload.lookups:
                raise ValueError(f"the workload has no positions for matrix {name!r}")
            total += workload.positions.get(name, 0) * matrix.parameters(factored.get(name, matrix.max_rank))
            total += workload.lookups.get(name, 0) * factored.get(name, 0) * matrix.columns
    return total
