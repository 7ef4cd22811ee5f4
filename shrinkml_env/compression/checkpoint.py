"""Saving and loading of models: a directory with `model.safetensors` and `config.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from shrinkml_env.compression.architectures import architectures
from shrinkml_env.compression.compress import part_factors, replace_matrices
from shrinkml_env.compression.discovery import arranged_layers, factors_of, form_of, ranks_of
from shrinkml_env.compression.factors import Factors, order_dtype
from shrinkml_env.compression.layers import FactorForm, Matrix, arrange_layers, matrix_ranks
from shrinkml_env.compression.number_formats import (
    INT8_MAX,
    Storage,
    int8_scales,
    require_storable,
    set_int8_scales,
    storages,
)
from shrinkml_env.compression.protocol import CompressibleModel
from shrinkml_env.compression.tensors import inference_tensors
from shrinkml_env.files import read_json_object, written_aside

__all__ = ["file_bytes", "load_compressed", "save_compressed"]

CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"
STORAGE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CONFIG_TYPES = {"format_version": int, "architecture": str, "config": dict, "ranks": dict, "storage_dtype": str}
FORMATS = {
    1: CONFIG_TYPES,
    2: CONFIG_TYPES | {"int8": list},
    3: CONFIG_TYPES | {"int8": list, "form": str, "shared": list},
}
"""Format version -> keys of `config.json` and their types. Version 2 added quantised models, version 3 the pivoting
form and shared factors."""


def save_compressed(model: CompressibleModel, path: str | os.PathLike[str]) -> None:
    """Write a model, compressed or not, to a directory; a model in the directory is replaced.

    Tensors that inference does not use are not saved. The scales of a matrix `NAME` that is stored in int8 are in
    `NAME.scale`. `config.json` is written last, so that a directory without it is an incomplete model.

    Raises:
        ValueError: The path is empty, the model's class is not registered, its number formats cannot represent a
            parameter exactly, or a matrix is held as two factors of a rank above break-even.
        FileExistsError: The path is a file.
    """
    if not os.fspath(path):
        raise ValueError("path is empty: a model is saved to a folder, give the name of one")
    directory = Path(path)
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file: a model is saved to a folder, give the name of one")
    if architectures.get(model.architecture) is not type(model):
        raise ValueError(f"{type(model).__name__} is not registered: decorate it with @register_architecture(name)")
    matrices = [matrix for layer in arranged_layers(model) for matrix in layer.matrices]
    ranks = ranks_of(model)
    for matrix in matrices:
        if matrix.name in ranks and not matrix.is_factored(ranks[matrix.name]):
            raise ValueError(
                f"matrix {matrix.name!r} takes no fewer numbers as two factors of rank {ranks[matrix.name]} than dense:"
                " change_form(model, 'pivoting') before you save the model"
            )
    content = _tensor_file(model)
    quantised = list(int8_scales(model))
    shared = [[part.name for part in matrix.parts] for matrix in matrices if matrix.parts]
    form = form_of(model)
    arranged = form != "factors" or bool(shared)
    config: dict[str, Any] = {
        "format_version": 3 if arranged else 2 if quantised else 1,
        "architecture": model.architecture,
        "config": model.to_config(),
        "ranks": ranks,
        "storage_dtype": str(model.storage_dtype).removeprefix("torch."),
    }
    if quantised or arranged:
        config["int8"] = quantised
    if arranged:
        config |= {"form": form, "shared": shared}
    config_text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    tensor_file, config_file = directory / TENSOR_FILE, directory / CONFIG_FILE
    # Both are written before either is replaced: a full disk leaves the earlier model unchanged.
    with written_aside(tensor_file, content) as tensors_aside, written_aside(config_file, config_text) as config_aside:
        config_file.unlink(missing_ok=True)
        tensors_aside.replace(tensor_file)
        config_aside.replace(config_file)


def file_bytes(model: CompressibleModel) -> int:
    """Return the size of a model's saved tensors, in bytes.

    Raises:
        ValueError: The model's number formats cannot represent a parameter exactly.
    """
    return len(_tensor_file(model))


def _tensor_file(model: CompressibleModel) -> bytes:
    require_storable(model)
    tensors = {}
    for name, (tensor, storage) in storages(model).items():
        tensors[name] = storage.encode(tensor.detach().cpu()).clone(memory_format=torch.contiguous_format)
        if storage.scales is not None:
            tensors[_scales_of(name)] = storage.scales
    return save(tensors)


def load_compressed(path: str | os.PathLike[str]) -> CompressibleModel:
    """Load a model that `save_compressed` wrote.

    Loading needs the registered class, but neither the original model nor a search. Parameters that only training uses
    have the values that `from_config` gives them.

    Returns:
        A model of the saved class, in evaluation mode, float32 on the CPU.

    Raises:
        FileNotFoundError: The directory or one of its two files is missing.
        ValueError: A file is malformed, or does not fit the architecture; the message names the file and the key or
            tensor.
    """
    directory = Path(path)
    config_file, tensor_file = directory / CONFIG_FILE, directory / TENSOR_FILE
    for file in config_file, tensor_file:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; a saved model is a directory with this file in it")
    config = _read_config(config_file)
    model = _build(config, config_file)
    model.storage_dtype = STORAGE_DTYPES[config["storage_dtype"]]
    quantised = config.get("int8", [])
    _require_matrices(model, quantised, config_file)
    _load_tensors(model, quantised, tensor_file)
    cast(nn.Module, model).eval()
    return model


def _read_config(file: Path) -> dict[str, Any]:
    config = read_json_object(file)
    version = config.get("format_version")
    if type(version) is not int or version not in FORMATS:
        raise ValueError(f"{file}: key 'format_version' must be 1, 2 or 3, got {version!r}")
    types = FORMATS[version]
    for key, expected in types.items():
        if key not in config:
            raise ValueError(f"{file}: key {key!r} is missing")
        if type(config[key]) is not expected:
            raise ValueError(f"{file}: key {key!r} must be of type {expected.__name__}, got {config[key]!r}")
    for key in config:
        if key not in types:
            raise ValueError(f"{file}: unknown key {key!r}")
    for key, choices in (
        ("architecture", architectures),
        ("storage_dtype", STORAGE_DTYPES),
        ("form", get_args(FactorForm)),
    ):
        if key in config and config[key] not in choices:
            raise ValueError(f"{file}: unknown {key} {config[key]!r}; known are {', '.join(choices)}")
    return config


def _build(config: dict[str, Any], file: Path) -> CompressibleModel:
    """Return the model with low-rank modules of the saved ranks, whose tensors are not loaded yet."""
    try:
        with torch.random.fork_rng(devices=[]):  # Loading must not shift the caller's random numbers.
            model = architectures[config["architecture"]].from_config(config["config"])
    except (AttributeError, LookupError, OSError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: key 'config' does not fit {config['architecture']!r}: {error!r}") from error
    ranks = config["ranks"]
    try:
        layers = arrange_layers(model.layers, config.get("form", "factors"), config.get("shared", ()))
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: key 'shared': {error}") from error
    try:
        factored = matrix_ranks(layers, ranks)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: key 'ranks': {error}") from error
    for name, rank in ranks.items():
        if factored.get(name) != rank:
            raise ValueError(f"{file}: key 'ranks': {name!r} is not a matrix that rank {rank} factors")
    matrices = {matrix.name: matrix for layer in layers for matrix in layer.matrices}
    factors: dict[str, Factors] = {}
    for name, rank in factored.items():
        factors |= part_factors(matrices[name], _empty_factors(matrices[name], rank))
    return replace_matrices(model, factors)


def _empty_factors(matrix: Matrix, rank: int) -> Factors:
    """Return factors of the right shapes and form, filled with zeros."""
    u, columns = torch.zeros(matrix.rows, rank), matrix.columns
    if matrix.form == "factors":
        return Factors(u, torch.zeros(rank, columns))
    return Factors(u, torch.zeros(rank, columns - rank), torch.arange(columns, dtype=order_dtype(columns)))


def _require_matrices(model: CompressibleModel, names: Sequence[Any], file: Path) -> None:
    """Check that the names of int8 tensors are those of matrices, each named once."""
    tensors = inference_tensors(model)
    matrices = {n for n, tensor in tensors.items() if isinstance(tensor, nn.Parameter) and tensor.dim() >= 2}
    for index, name in enumerate(names):
        if not isinstance(name, str) or name not in matrices or name in names[:index]:
            raise ValueError(f"{file}: key 'int8': {name!r} is not a matrix of this model, or is named twice")


@torch.no_grad()
def _load_tensors(model: CompressibleModel, quantised: Sequence[str], file: Path) -> None:
    """Copy a file's values into a model, and set the scales of the matrices that are stored in int8."""
    try:
        tensors = load(file.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{file}: not a complete safetensors file: {error}") from error
    set_int8_scales(model, {name: torch.ones(len(inference_tensors(model)[name])) for name in quantised})
    targets = storages(model)
    expected = {name: (storage.dtype, tensor.shape) for name, (tensor, storage) in targets.items()}
    expected |= {_scales_of(name): (torch.float32, scales.shape) for name, scales in int8_scales(model).items()}
    for name in tensors:
        if name not in expected:
            raise ValueError(f"{file}: unexpected tensor {name!r}: the architecture at these ranks has none")
    for name, (dtype, shape) in expected.items():
        if name not in tensors:
            raise ValueError(f"{file}: tensor {name!r} is missing")
        tensor = tensors[name]
        if tensor.shape != shape or tensor.dtype != dtype:
            found = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ValueError(f"{file}: tensor {name!r} must be {dtype} {tuple(shape)}, got {found}")
        if not tensor.isfinite().all():
            raise ValueError(f"{file}: tensor {name!r} holds NaN or infinity")
    scales = {name: tensors[_scales_of(name)] for name in quantised}
    for name, column in scales.items():
        if not (column > 0).all():
            raise ValueError(f"{file}: tensor {_scales_of(name)!r} must hold numbers above 0")
        if (tensors[name] < -INT8_MAX).any():
            raise ValueError(f"{file}: tensor {name!r} must hold numbers in -{INT8_MAX}..{INT8_MAX}")
    orders: dict[int, tuple[str, Tensor]] = {}
    for matrix, held in factors_of(model).items():
        if held.order is not None:
            name = f"{matrix}_order"
            _require_order(name, tensors[name], file)
            first, order = orders.setdefault(id(held.v), (name, tensors[name]))
            if not order.equal(tensors[name]):
                raise ValueError(f"{file}: tensors {first!r} and {name!r} must be equal: they order one right factor")
    set_int8_scales(model, scales)
    for name, (target, storage) in targets.items():
        target.copy_(Storage(storage.dtype, scales.get(name)).decode(tensors[name]))


def _require_order(name: str, order: Tensor, file: Path) -> None:
    """Check that an order of columns is a permutation."""
    if sorted(order.tolist()) != list(range(len(order))):
        raise ValueError(f"{file}: tensor {name!r} must hold the numbers 0..{len(order) - 1} in some order")


def _scales_of(name: str) -> str:
    """Return the name of the tensor with a quantised matrix's scales; no parameter can have this name."""
    return f"{name}.scale"
