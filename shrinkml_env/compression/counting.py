"""Exact counts of parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shrinkml_env.compression.discovery import arranged_layers, ranks_of
from shrinkml_env.compression.factors import Factorisation
from shrinkml_env.compression.layers import Layer, canonical_ranks, matrix_ranks
from shrinkml_env.compression.protocol import CompressibleModel, Workload
from shrinkml_env.compression.tensors import has_prefix, inference_tensors

__all__ = ["compressed_parameters", "count_macs", "count_parameters", "encoder_parameters", "parameters_at"]


def count_parameters(model: CompressibleModel) -> int:
    """Return the number of parameters of a model, compressed or not.

    It is the number of elements of its floating-point `inference_tensors`, biases included.
    """
    return sum(tensor.numel() for tensor in inference_tensors(model).values() if tensor.is_floating_point())


def encoder_parameters(model: CompressibleModel) -> int:
    """Return the number of parameters of the encoder, which papers on encoder-decoder models report.

    Raises:
        ValueError: The model has no attribute `encoder_path` that names a module with parameters.
    """
    path = getattr(model, "encoder_path", "")
    tensors = [tensor for name, tensor in inference_tensors(model).items() if path and has_prefix(name, [path])]
    if not tensors:
        raise ValueError(f"{type(model).__name__} has no encoder_path that names a module with parameters")
    return sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())


def compressed_parameters(
    model: CompressibleModel, ranks: Mapping[str, int], factorisation: Factorisation | None = None
) -> int:
    """Return the `count_parameters` of `compress(model, ranks, factorisation)` without compressing.

    Args:
        model: The original, or a compressed version of it; with empty `ranks` the result is the original's count.
        ranks: Layer or matrix name -> rank.
        factorisation: Defines the form of the factors; None is two factors for each matrix.

    Raises:
        ValueError: A name is unknown, or a rank is out of range.
    """
    original = count_parameters(model) + _saved(arranged_layers(model), ranks_of(model))
    layers = model.layers if factorisation is None else factorisation.layers
    return original - _saved(layers, matrix_ranks(layers, ranks))


def parameters_at(original: int, layers: Sequence[Layer], ranks: Mapping[str, int]) -> int:
    """Return the number of parameters of a configuration, given the original's; it counts no tensor.

    Args:
        original: The number of parameters of the original.
        layers: All layers that have a rank.
        ranks: Layer name -> rank; layers without an entry are dense.

    Raises:
        ValueError: A layer is unknown, or a rank is out of range.
    """
    complete = canonical_ranks(layers, ranks)
    return original - sum(layer.parameters(layer.max_rank) - layer.parameters(complete[layer.name]) for layer in layers)


def _saved(layers: Sequence[Layer], factored: Mapping[str, int]) -> int:
    """Return the number of parameters that the factors save, over all factored matrices."""
    # Not by `Matrix.parameters`: a model that was loaded may hold two factors above break-even, which save less than 0.
    return sum(
        matrix.rows * (matrix.columns - factored[matrix.name]) - matrix.right_parameters(factored[matrix.name])
        for layer in layers
        for matrix in layer.matrices
        if matrix.name in factored
    )


def count_macs(layers: Sequence[Layer], ranks: Mapping[str, int], workload: Workload) -> int:
    """Return the multiply-adds of a configuration for a workload.

    At each position a dense matrix costs mn and a factored one r(m + n), or r(m + n - r) in pivoting form. A right
    factor that several matrices share counts once for each of them. The look-up of a row costs the product with the
    right factor if the matrix is factored, and nothing if it is dense. The workload's other multiply-adds are added.

    Args:
        layers: The layers, as the factorisation has them (`Factorisation.layers`).
        ranks: Layer or matrix name -> rank.
        workload: The workload, with an entry for every matrix of the model.

    Raises:
        ValueError: A name is unknown, a rank is out of range, or the workload lacks a matrix.
    """
    factored = matrix_ranks(layers, ranks)
    total = workload.other_macs
    for layer in layers:
        for matrix in layer.matrices:
            rank = factored.get(matrix.name)
            right = 0 if rank is None else matrix.right_parameters(rank)
            for block in matrix.blocks:
                if block.name not in workload.positions and block.name not in workload.lookups:
                    raise ValueError(f"the workload has no positions for matrix {block.name!r}")
                left = block.rows * (block.columns if rank is None else rank)
                total += workload.positions.get(block.name, 0) * (left + right)
                total += workload.lookups.get(block.name, 0) * right
    return total
