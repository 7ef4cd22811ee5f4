"""Export to ONNX graphs: ``encoder.onnx`` and ``decoder.onnx``, for onnxruntime and others."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from shrinkml_env.compression import CompressibleModel, exact_storage_dtype
from shrinkml_env.export.las import OnnxLSTM
from shrinkml_env.export.programs import quiet, require_las, traced_decoder, traced_encoder, write_companions

__all__ = ["write_onnx"]

_FEW = 32
"""The largest number of elements of a constant that is not treated as a weight."""


def write_onnx(model: CompressibleModel, folder: Path) -> None:
    """Write the graphs, and the files of `write_companions`, into an existing folder.

    Raises:
        ImportError: A package for ONNX is not installed.
        ValueError: The model is not a LAS model.
    """
    las = require_las(model)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise ImportError(
                f"the format onnx needs the package {package}: pip install 'shrinkml-env[export]'"
            ) from error
    with quiet():
        _write(traced_encoder(las, OnnxLSTM), folder / "encoder.onnx", ["waveform"], ["values", "keys"])
        state = ["hidden", "cell", "context", "history"]
        _write(
            traced_decoder(las),
            folder / "decoder.onnx",
            ["previous", "values", "keys", *state],
            ["logits", *(f"next_{name}" for name in state)],
        )
    write_companions(las, folder)


def _write(program: ExportedProgram, file: Path, inputs: list[str], outputs: list[str]) -> None:
    from onnxscript import optimizer

    found: Any = torch.onnx.export(
        program, dynamo=True, verbose=False, optimize=False, input_names=inputs, output_names=outputs
    )
    # Constants of shapes are folded now, but not products of factors, so that the file contains the factors.
    found.model = optimizer.optimize(found.model, input_size_limit=_FEW, output_size_limit=_FEW)
    _store_exactly(found.model)
    found.save(file)


def _store_exactly(model: Any) -> None:
    """Store each weight in the smallest dtype that represents it exactly, with a cast to float32.

    onnxruntime computes the casts once when it loads the file, since they are constant expressions.
    """
    import onnx_ir as ir

    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if value.dtype != ir.DataType.FLOAT or value.const_value.size <= _FEW:
            continue
        weight = torch.from_numpy(value.const_value.numpy())
        dtype = exact_storage_dtype([weight])
        if dtype == torch.float32:
            continue
        stored: Any = ir.Value(name=f"{name}_stored", const_value=ir.tensor(weight.to(dtype)))
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[name]
        stored.dtype, stored.shape = stored.const_value.dtype, stored.const_value.shape
        graph.register_initializer(stored)
        graph.insert_before(graph[0], cast)
